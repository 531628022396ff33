"use strict";
(() => {
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const study = read("study"), config = read("config");
const byId = (id) => document.getElementById(id);

// ---- SHA-256 and HMAC (FIPS 180-4, RFC 2104): the browser's own are missing on plain http in a local network ----
const K = [], H0 = [];
for (let n = 2; K.length < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) { prime = false; break; }
  if (!prime) continue;
  if (H0.length < 8) H0.push((Math.sqrt(n) % 1) * 2 ** 32 | 0);
  K.push((Math.cbrt(n) % 1) * 2 ** 32 | 0);
}
const bytes = (text) => new TextEncoder().encode(text);
const hex = (data) => [...data].map((b) => b.toString(16).padStart(2, "0")).join("");
function sha256(data) {
  const blocks = new Uint8Array(((data.length + 72) >> 6) << 6);
  blocks.set(data);
  blocks[data.length] = 0x80;
  const view = new DataView(blocks.buffer);
  view.setUint32(blocks.length - 8, Math.floor(data.length / 2 ** 29));
  view.setUint32(blocks.length - 4, data.length << 3);
  const h = [...H0], w = new Int32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let at = 0; at < blocks.length; at += 64) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) { w[i] = view.getInt32(at + 4 * i); continue; }
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[i - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, k] = h;
    for (let i = 0; i < 64; i++) {
      const t = (k + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const u = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [k, g, f, e, d, c, b, a] = [g, f, e, (d + t) | 0, c, b, a, (t + u) | 0];
    }
    [a, b, c, d, e, f, g, k].forEach((x, i) => { h[i] = (h[i] + x) | 0; });
  }
  const out = new Uint8Array(32), outView = new DataView(out.buffer);
  h.forEach((x, i) => outView.setInt32(4 * i, x));
  return out;
}
function hmac(key, message) {
  const pad = new Uint8Array(64);
  pad.set(key.length > 64 ? sha256(key) : key);
  const join = (mask, tail) => {
    const all = new Uint8Array(64 + tail.length);
    all.set(pad.map((x) => x ^ mask));
    all.set(tail, 64);
    return all;
  };
  return sha256(join(0x5c, sha256(join(0x36, message))));
}
function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.keys(value).sort().map((k) => `${JSON.stringify(k)}:${canonical(value[k])}`).join(",")}}`;
}

// ---- what this rater sees: bench.study.ballot.assigned ----
function assigned(rater) {
  const draw = (n) => new DataView(sha256(bytes(`${study.id}:${rater}:${n}`)).buffer).getUint32(0);
  const trials = [...study.variants[draw(0) % study.variants.length]];
  for (let i = trials.length - 1; i > 0; i--) {
    const j = draw(trials.length - i) % (i + 1);
    [trials[i], trials[j]] = [trials[j], trials[i]];
  }
  return trials;
}

// ---- what is kept in this browser ----
let keeps = true;
const store = {
  get(key) { try { return JSON.parse(localStorage.getItem(key)); } catch { keeps = false; return null; } },
  set(key, value) { try { localStorage.setItem(key, JSON.stringify(value)); } catch { keeps = false; } },
};
const place = `tunebench-study:${study.id}`;
function raterCode() {
  if (config.rater) return config.rater;
  const given = /^#rater=([A-Za-z0-9_-]{1,64})$/.exec(location.hash);
  const known = given ? given[1] : store.get(place);
  const code = typeof known === "string" ? known : hex(crypto.getRandomValues(new Uint8Array(8)));
  if (!given) store.set(place, code);
  return code;
}
const rater = raterCode();
const trials = assigned(rater);
const known = new Set(trials.map((t) => t.id));
const mine = `${place}:${rater}`;
const state = { votes: {}, sent: {}, ...(store.get(mine) ?? {}) };
for (const vote of config.votes ?? []) {
  const here = state.votes[vote.trial];
  if (known.has(vote.trial) && (!here || here.revision <= vote.revision)) state.votes[vote.trial] = vote;
  state.sent[vote.id] = true;
}
const save = () => store.set(mine, state);
const answered = () => trials.filter((t) => state.votes[t.id]).length;
const say = (text, bad = false) => { byId("said").textContent = text; byId("said").classList.toggle("bad", bad); };

function record(trial, answers, ms) {
  const before = state.votes[trial.id];
  const same = before && canonical(before.answers) === canonical(answers);
  if (!same) {
    const revision = before ? before.revision + 1 : 0;
    const whole = Math.min(Math.max(0, Math.round(ms)), 604800000);
    state.votes[trial.id] = { id: `${rater}-${trial.id}-${revision}`, trial: trial.id, revision, answers, ms: whole };
    save();
  }
  send();
}

// ---- sending, where there is a server: a vote stays here until the server says that it has it ----
let sending = false, wait = 1000;
async function send() {
  if (!config.server || sending) return;
  const votes = Object.values(state.votes).filter((v) => !state.sent[v.id]).slice(0, 20);
  if (!votes.length) return;
  sending = true;
  let again = 0;
  try {
    const reply = await fetch(config.post, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ study: study.id, rater, votes }),
    });
    if (reply.ok) {
      for (const id of (await reply.json()).stored) state.sent[id] = true;
      save();
      wait = 1000;
      again = 1;
      say("");
      if (at === trials.length) show();
    } else if (reply.status >= 500) throw new Error(String(reply.status));
    else say(`The server refused a vote (${(await reply.text()).slice(0, 200)}). Your votes are kept in this browser.`, true);
  } catch {
    say("The server does not answer. Your votes are kept in this browser and sent when it is back.", true);
    again = wait = Math.min(wait * 2, 15000);
  }
  sending = false;
  if (again) setTimeout(send, again);
}

function exported() {
  const votes = trials.map((t) => state.votes[t.id]).filter(Boolean);
  votes.sort((a, b) => (a.trial < b.trial ? -1 : 1));
  const content = { schema: "tunebench/votes", schema_version: 1, study: study.id, rater, n_trials: trials.length, votes };
  return { ...content, signature: hex(hmac(bytes(study.salt), bytes(canonical(content)))) };
}
function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(exported(), null, 1)], { type: "application/json" }));
  link.download = `votes-${study.id}-${rater}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`Saved ${answered()} of ${trials.length} votes to ${link.download}.`);
}

// ---- the screens ----
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
const key = (text) => el("kbd", { "aria-hidden": "true" }, text);
const SIDES = ["Left image", "Right image"];
let at = -1, keys = {}, shownAt = 0;

function show() {
  keys = {};
  const done = answered();
  byId("progress").max = trials.length;
  byId("progress").value = done;
  byId("count").textContent = `${done} of ${trials.length}`;
  const screen = at < 0 ? welcome() : at < trials.length ? trialScreen(trials[at]) : thanks();
  byId("main").replaceChildren(...screen);
  shownAt = performance.now();
  scrollTo(0, 0);
  byId("main").querySelector("[data-focus]")?.focus({ preventScroll: true });
}
function go(to) { at = Math.max(-1, Math.min(to, trials.length)); say(""); show(); }
const firstOpen = () => { const i = trials.findIndex((t) => !state.votes[t.id]); return i < 0 ? trials.length : i; };
function next() {
  const later = trials.findIndex((t, i) => i > at && !state.votes[t.id]);
  go(later < 0 ? firstOpen() : later);
}

function welcome() {
  const done = answered();
  keys = { Enter: () => go(firstOpen()) };
  return [
    el("h1", { tabindex: "-1", "data-focus": true }, study.title),
    el("p", {}, study.instruction),
    el("ul", {}, ...study.questions.map((q) => el("li", {}, el("strong", {}, q.label), `: ${q.text}`))),
    el("p", {}, `${trials.length} screens. Some are there to see whether the page is read with attention.`),
    el("p", { class: "muted" }, keeps ? "Your votes are kept in this browser: you may close the page and go on later."
      : "This browser keeps nothing when the page is closed: please finish in one go and save the file."),
    el("p", { class: "muted" }, `Your code: ${rater}. No name or address is asked for or kept.`),
    el("div", { class: "actions" }, el("button", { class: "go", type: "button", onclick: () => go(firstOpen()) },
      done ? "Go on " : "Begin ", key("Enter"))),
  ];
}

function images(trial) {
  const two = trial.images.length === 2 && study.kind !== "rank";
  const kept = study.kind === "scale" ? " kept" : "";  // six questions are longer than a screen: the images stay in sight
  return el("div", { class: two ? `images two${kept}` : `images ${study.kind}` }, ...trial.images.map((name, i) => {
    const facts = study.images[name];
    const label = two ? SIDES[i] : `Image ${i + 1}`;
    return el("figure", {}, el("img", { src: facts.src, width: facts.width, height: facts.height, alt: label, draggable: "false",
      class: facts.width <= 160 ? "pixels" : "" }), el("figcaption", {}, label));
  }));
}

function trialScreen(trial) {
  const last = state.votes[trial.id]?.answers;
  for (const name of trials[at + 1]?.images ?? []) new Image().src = study.images[name].src;
  const heading = el("h1", { class: "prompt", tabindex: "-1", "data-focus": true }, study.prompts[trial.prompt]);
  const figures = images(trial);
  const body = { pairwise, rank, scale }[study.kind](trial, last, (answers) => {
    record(trial, answers, performance.now() - shownAt);
    next();
  }, figures);
  const back = () => go(at - 1);
  keys.Backspace ??= back;
  keys.u = back;
  const open = el("div", { class: "actions" },
    el("button", { type: "button", onclick: back }, "Back ", key("U")),
    el("button", { type: "button", onclick: next, disabled: !last }, "Next"),
    ...(config.server ? [] : [el("button", { type: "button", onclick: download, disabled: !answered() }, "Save so far")]));
  return [heading, ...(body.includes(figures) ? [] : [figures]), ...body, open];
}

function pairwise(trial, last, vote) {
  const [question] = study.questions;
  const choice = (value, text, shown, ...names) => {
    const act = () => vote({ [question.id]: value });
    for (const name of names) keys[name] = act;
    return el("button", { type: "button", onclick: act, "aria-pressed": String(last?.[question.id] === value),
      "aria-keyshortcuts": names.join(" "), "data-vote": value }, text, " ", key(shown));
  };
  return [
    el("p", { class: "ask" }, question.text),
    el("div", { class: "actions three", role: "group", "aria-label": question.text },
      choice("left", "Left", "←", "ArrowLeft", "1"), choice("tie", "Cannot decide", "↓", "ArrowDown", "0"),
      choice("right", "Right", "→", "ArrowRight", "2")),
  ];
}

function rank(trial, last, vote, figures) {
  const n = trial.images.length;
  const order = Object.fromEntries(study.questions.map((q) => [q.id, [...(last?.[q.id] ?? [])]]));
  const active = () => study.questions.find((q) => order[q.id].length < n);
  const blocks = study.questions.map((q) => el("div", { "data-question": q.id }));
  const now = el("p", { class: "ask now" });  // above the images, which on a phone fill the screen
  const thumb = (i) => el("img", { class: "thumb", alt: "", src: study.images[trial.images[i]].src });
  const finish = el("button", { class: "go", type: "button", onclick: () => vote(order) }, "Done ", key("Enter"));
  const place = (q, i) => {
    if (order[q.id].includes(i)) order[q.id] = order[q.id].filter((x) => x !== i);
    else order[q.id].push(i);
    if (order[q.id].length === n - 1) order[q.id].push([...Array(n).keys()].find((x) => !order[q.id].includes(x)));
    draw();
  };
  function draw() {
    const focused = document.activeElement?.dataset?.place;
    const asked = active();
    now.textContent = asked ? `${asked.label}: tap the images, best first (${order[asked.id].length + 1} of ${n}).` : "All are placed.";
    figures.querySelectorAll("figcaption").forEach((caption, i) => {
      const places = study.questions.map((q) => [q.label, order[q.id].indexOf(i) + 1]).filter(([, where]) => where);
      caption.replaceChildren(`Image ${i + 1}`, ...places.map(([label, where]) => el("span", { class: "where" }, `${label} ${where}`)));
    });
    study.questions.forEach((q, b) => {
      const mark = asked === q ? "▸ " : "";
      blocks[b].replaceChildren(
        el("p", { class: "ask" }, `${mark}${q.label}: ${q.text}`, el("span", { class: "muted" }, " Best first.")),
        el("div", { class: "ranks", role: "group", "aria-label": q.text }, ...[...Array(n).keys()].map((i) => {
          const where = order[q.id].indexOf(i);
          return el("button", { type: "button", "aria-pressed": String(where >= 0), "data-place": `${q.id}-${i}`,
            "aria-label": where < 0 ? `Image ${i + 1}, not placed` : `Image ${i + 1}, place ${where + 1}`,
            onclick: () => place(q, i) }, thumb(i), `Image ${i + 1}`, where < 0 ? "" : el("b", { class: "badge" }, String(where + 1)));
        })));
    });
    finish.disabled = Boolean(asked);
    if (focused) document.querySelector(`[data-place="${focused}"]`)?.focus();
  }
  for (let i = 0; i < n; i++) keys[String(i + 1)] = () => { const q = active(); if (q && !order[q.id].includes(i)) place(q, i); };
  figures.querySelectorAll("img").forEach((image, i) => image.addEventListener("click", keys[String(i + 1)]));
  keys.Backspace = () => {
    const started = study.questions.filter((q) => order[q.id].length);
    if (!started.length) { go(at - 1); return; }
    const { id } = started[started.length - 1];
    order[id] = order[id].slice(0, order[id].length === n ? -2 : -1);
    draw();
  };
  keys.Enter = () => { if (!active()) vote(order); };
  draw();
  return [now, figures,
    el("p", { class: "muted keys" }, "Keys: the image's number places it next, Backspace takes the last one back."),
    ...blocks, el("div", { class: "actions" }, finish)];
}

function scale(trial, last, vote) {
  const chosen = { ...(last ?? {}) };
  const finish = el("button", { class: "go", type: "button", onclick: () => vote(chosen) }, "Done ", key("Enter"));
  const check = () => { finish.disabled = study.questions.some((q) => chosen[q.id] === undefined); };
  keys.Enter = () => { if (!finish.disabled) vote(chosen); };
  const sets = study.questions.map((q) => el("fieldset", {},
    el("legend", {}, el("strong", {}, q.label), el("span", { class: "muted" }, q.text)),
    el("div", { class: "steps" }, ...[...Array(11).keys()].map((i) => {
      const value = i - 5;
      const words = value ? `${Math.abs(value)} of 5 better ${value < 0 ? "left" : "right"}` : "no difference";
      return el("label", {}, el("input", { type: "radio", name: q.id, value: String(value), "aria-label": `${q.label}: ${words}`,
        checked: chosen[q.id] === value, onchange: () => { chosen[q.id] = value; check(); } }),
        String(value).replace("-", "−"));
    })),
    el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, "left far better"), el("span", {}, "right far better"))));
  check();
  return [el("p", { class: "muted keys" }, "Keys: Tab to the next dimension, arrows to choose, Enter when all are chosen."),
    ...sets, el("div", { class: "actions" }, finish)];
}

function thanks() {
  const missing = Object.values(state.votes).filter((v) => !state.sent[v.id]).length;
  const back = el("button", { type: "button", onclick: () => go(trials.length - 1) }, "Back ", key("U"));
  keys = { u: () => go(trials.length - 1) };
  if (config.server) {
    return [el("h1", { tabindex: "-1", "data-focus": true }, "Thank you"),
      el("p", { id: "arrived" }, missing ? `${missing} votes are still on their way: please leave the page open.`
        : "All votes have arrived. You may close the page."), el("div", { class: "actions" }, back)];
  }
  keys.Enter = download;
  return [el("h1", { tabindex: "-1", "data-focus": true }, "Thank you"),
    el("p", {}, "Save the file and give it to whoever asked you: nothing is sent by itself."),
    el("div", { class: "actions" }, el("button", { class: "go", type: "button", onclick: download }, "Save votes ", key("Enter")), back)];
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const on = event.target, button = on instanceof HTMLButtonElement;
  const radio = on instanceof HTMLInputElement && on.type === "radio";
  if (button && (event.key === "Enter" || event.key === " ")) return;
  if (radio && event.key.startsWith("Arrow")) return;
  const act = keys[event.key] ?? keys[event.key.toLowerCase()];
  if (act) { event.preventDefault(); act(); }
});
addEventListener("hashchange", () => location.reload());

at = answered() && answered() < trials.length ? firstOpen() : answered() ? trials.length : -1;
show();
send();
})();
