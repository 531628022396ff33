"use strict";
// Pages read the same without this: it makes headings sort their table.

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.querySelector("tbody.rows");
  if (!body) continue;
  const heads = [...table.tHead.rows[0].cells];
  const original = [...body.rows];
  const value = (row, i) => {
    const cell = row.cells[i];
    return cell.hasAttribute("data-v") ? cell.getAttribute("data-v") : null;
  };
  heads.forEach((head, i) => {
    const kind = head.dataset.sort;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Best first; again for worst first. Rows without a value stay last either way.
      const first = kind === "high" ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const read = kind === "text"
        ? (row) => value(row, i) ?? row.cells[i].textContent.trim()
        : (row) => (value(row, i) === null ? null : Number(value(row, i)));
      const compare = (a, b) => {
        const x = read(a), y = read(b);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (kind === "text" ? x.localeCompare(y) : x - y);
      };
      body.append(...[...original].sort(compare));
    });
  });
}
