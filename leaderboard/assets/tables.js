"use strict";
// Filters for the tables that say they have them. Pages read the same without: every row is there.

for (const table of document.querySelectorAll("table.filterable")) {
  const bodies = [...table.tBodies].filter((body) => !body.classList.contains("reference"));
  const rows = bodies.flatMap((body) => [...body.rows]);
  if (rows.length < 3) continue;
  const bar = document.createElement("div");
  bar.className = "filters";
  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(text, " ", control);
    bar.append(label);
    return control;
  };
  const words = labelled("Filter", document.createElement("input"));
  words.type = "search";
  words.placeholder = "text in a row";
  const choices = [];
  for (const [key, title] of [["tuner", "Tuner"], ["model", "Base model"], ["reward", "Reward"], ["status", "Status"]]) {
    const values = [...new Set(rows.map((row) => row.dataset[key]).filter((value) => value))].sort();
    if (values.length < 2) continue;
    const select = labelled(title, document.createElement("select"));
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    choices.push([key, select]);
  }
  const said = document.createElement("output");
  said.className = "muted";
  said.setAttribute("aria-live", "polite");
  bar.append(said);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter((word) => word);
    let n = 0;
    for (const row of rows) {
      const fits = wanted.every((word) => texts.get(row).includes(word))
        && choices.every(([key, select]) => !select.value || row.dataset[key] === select.value);
      row.hidden = !fits;
      n += fits;
    }
    said.textContent = n === rows.length ? "" : `${n} of ${rows.length} rows`;
  };
  bar.addEventListener("input", apply);
  bar.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    words.value = "";
    choices.forEach(([, select]) => { select.value = ""; });
    apply();
  });
  table.parentElement.before(bar);
}
