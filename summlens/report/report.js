"use strict";
(() => {
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = [...document.querySelectorAll(".plot")];

  // Plotly draws its own text and grids: they get the page's inks, again when light and dark change.
  const inks = (layout) => {
    const change = { "font.color": ink("--ink") };
    for (const axis of ["xaxis", "yaxis"]) {
      if (layout[axis]) { change[axis + ".gridcolor"] = ink("--grid"); change[axis + ".zerolinecolor"] = ink("--grid"); }
    }
    if (layout.sliders) { change["sliders[0].font.color"] = ink("--ink"); change["sliders[0].bgcolor"] = ink("--grid"); }
    return change;
  };
  const canDraw3d = () => {
    try { return Boolean(document.createElement("canvas").getContext("webgl")); } catch { return false; }
  };
  const draw = (box) => {
    const { data, layout, frames, config } = JSON.parse(document.getElementById(box.dataset.source).textContent);
    if (layout.scene && !canDraw3d()) {
      box.textContent = "This browser cannot draw in 3D (no WebGL); the animation shows the same points.";
      box.classList.add("empty");
      return Promise.resolve();
    }
    return Plotly.newPlot(box, { data, layout, frames, config }).then(() => {
      if (box.id === "plot-heads_slider") box.on("plotly_click", ({ points: [{ x, y }] }) => {
        document.dispatchEvent(new CustomEvent("summlens:head", { detail: `${y}.${x}` }));
      });
      return Plotly.relayout(box, inks(layout));
    });
  };
  // A figure is drawn when it comes near the screen, so that the page opens at once.
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }, { rootMargin: "800px" });
  plots.forEach((box) => seen.observe(box));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const box of plots) if (box.layout) Plotly.relayout(box, inks(box.layout));
  });

  // A link to a folded place opens it; on paper everything is open.
  const reveal = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const fold = target && (target.closest("details") || target.querySelector("details"));
    if (fold) { fold.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((fold) => { fold.open = true; }));
  reveal();
})();
