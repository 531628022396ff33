"use strict";
// A gallery flips by its radio buttons; this adds the space bar and clicks on an image.
document.documentElement.classList.add("js");

const views = { left: document.getElementById("view-left"), right: document.getElementById("view-right") };

function flip() {
  (views.right.checked ? views.left : views.right).checked = true;
}

if (views.left) {
  for (const images of document.querySelectorAll(".gallery .images")) images.addEventListener("click", flip);
  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("a, button, summary, select, textarea, input:not([type=radio])");
    if (event.key !== " " || busy || event.ctrlKey || event.metaKey || event.altKey) return;
    // Anywhere else the space bar scrolls the page, so it flips only from a view button or while a gallery is in sight.
    const box = document.querySelector(".gallery").getBoundingClientRect();
    if (event.target.name !== "view" && (box.bottom < 0 || box.top > innerHeight)) return;
    event.preventDefault();
    flip();
  });
}
