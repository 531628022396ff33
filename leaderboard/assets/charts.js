"use strict";
// Draws each chart anew from the Vega-Lite specification beside it when it comes into view: with tooltips, in the page's
// own colours. The drawing that the page came with says the same and stays where anything fails.
{
  const boxes = [...document.querySelectorAll(".chart [role=img]")].filter((box) => box.querySelector("script"));
  const config = {
    background: "transparent", padding: 2, font: "system-ui, sans-serif", view: { stroke: null }, aria: false,
    axis: {
      labelColor: "var(--muted)", titleColor: "currentColor", gridColor: "var(--line)", domainColor: "var(--line)",
      tickColor: "var(--line)", labelFontSize: 10.5, titleFontSize: 11, titleFontWeight: "normal",
    },
  };
  let library = null;
  const load = () => {
    library ??= new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = document.querySelector("meta[name=vega]").content;
      script.onload = done;
      script.onerror = failed;
      document.head.append(script);
    });
    return library;
  };
  const draw = async (box) => {
    await load();
    const spec = JSON.parse(box.querySelector("script").textContent);
    const drawn = box.querySelector("svg.plot");
    const { width, height } = drawn.viewBox.baseVal;
    const place = document.createElement("div");
    place.className = "drawn";
    place.style.aspectRatio = `${width} / ${height}`; // nothing on the page moves
    const options = {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false, config,
      tooltip: { theme: "custom", disableDefaultStyle: true },
    };
    await vegaEmbed(place, spec, options);
    drawn.replaceWith(place);
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((found) => found.isIntersecting)) {
      watcher.unobserve(entry.target);
      draw(entry.target).catch((error) => console.error(error));
    }
  }, { rootMargin: "200px" });
  boxes.forEach((box) => watcher.observe(box));
}
