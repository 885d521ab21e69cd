"use strict";
(() => {
  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = [...document.querySelectorAll(".plot")];
  const openHead = (layer, head) => {
    document.dispatchEvent(new CustomEvent("summlens:head", { detail: `${layer}.${head}` }));
  };

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
      if (layout.meta?.cells === "heads") box.on("plotly_click", ({ points: [{ x, y }] }) => openHead(y, x));
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

  // Still heatmaps of heads: the cell under the pointer is ringed and named, a click opens its head.
  const ring = document.createElement("div");
  ring.className = "ring";
  ring.hidden = true;
  ring.append(document.createElement("span"));
  document.body.append(ring);
  const hide = () => { ring.hidden = true; };
  const cellAt = (frame, grids, { clientX, clientY }) => {
    for (const { place: [left, top, width, height], layers, heads, values } of grids) {
      const head = Math.floor(heads * ((clientX - frame.left) / frame.width - left) / width);
      const layer = Math.floor(layers * ((clientY - frame.top) / frame.height - top) / height);
      if (head < 0 || head >= heads || layer < 0 || layer >= layers) continue;
      const w = width * frame.width / heads, h = height * frame.height / layers;
      const value = values && (values[layer][head] === null ? "no value" : String(values[layer][head]).replace("-", "−"));
      return { layer, head, value, w, h, x: frame.left + left * frame.width + head * w, y: frame.top + top * frame.height + layer * h };
    }
    return null;
  };
  for (const [name, grids] of Object.entries(JSON.parse(document.getElementById("grids").textContent))) {
    for (const drawing of document.querySelectorAll(`#${name} .drawing svg, #${name} .moving img`)) {
      const find = (event) => cellAt(drawing.getBoundingClientRect(), grids, event);
      drawing.addEventListener("pointermove", (event) => {
        const cell = find(event);
        ring.hidden = !cell;
        drawing.style.cursor = cell && document.getElementById("explorer") ? "pointer" : "";
        if (!cell) return;
        Object.assign(ring.style, { left: `${cell.x}px`, top: `${cell.y}px`, width: `${cell.w}px`, height: `${cell.h}px` });
        ring.classList.toggle("leftwards", cell.x > innerWidth / 2);
        ring.firstChild.textContent = `head ${cell.layer}.${cell.head}${cell.value === null ? "" : `: ${cell.value}`}`;
      });
      drawing.addEventListener("pointerleave", hide);
      drawing.addEventListener("click", (event) => {
        const cell = find(event);
        if (cell) openHead(cell.layer, cell.head);
      });
    }
  }
  addEventListener("scroll", hide, true);

  // A box that is wider than the screen fades at the edge beyond which there is more.
  const fade = (box) => { box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2); };
  const fading = new ResizeObserver((entries) => entries.forEach(({ target }) => fade(target)));
  for (const box of document.querySelectorAll(".box")) {
    fading.observe(box);
    box.addEventListener("scroll", () => fade(box), { passive: true });
  }

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
