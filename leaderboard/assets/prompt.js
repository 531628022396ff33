"use strict";
// Left and right turn the pages of a board's prompts, unless something else has the keys.
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, .strip, .scroll") || event.ctrlKey || event.metaKey || event.altKey) return;
  const link = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]" }[event.key];
  if (link) document.querySelector(link)?.click();
});
