"use strict";
// The head explorer and the information flow. Every text of the run reaches the page through textContent.
(() => {
  const source = document.getElementById("data-explorer");
  if (!source) return;
  const { heads, articles } = JSON.parse(source.textContent);
  const SHARE = Float64Array.from({ length: 256 }, (_, q) => (q / 255) ** 2);
  const MODELS = ["base", "fine_tuned"];
  const NAMES = { base: "Base", fine_tuned: "Fine-tuned" };
  const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)}\u00a0%`.replace("-", "−");
  const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} points`;
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const visible = (token) => token.replace(/\n/g, "↵").trim() || "␣";
  const quoted = (token) => `“${visible(token)}”`;

  const unpack = async ({ bytes, data }) => {
    const packed = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const buffer = await new Response(stream).arrayBuffer();
    return bytes === 1 ? new Uint8Array(buffer) : new Uint16Array(buffer);
  };
  const kept = new Map();  // what was unpacked already
  const once = (key, start) => { if (!kept.has(key)) kept.set(key, start()); return kept.get(key); };
  const rowsOf = (index) => once(`rows ${index}`, async () => {
    const { rows } = articles[index];
    return Object.fromEntries(await Promise.all(MODELS.map(async (model) => [model, await unpack(rows[model])])));
  });
  const flowOf = (index, method) => once(`flow ${index} ${method}`, async () => {
    const flow = articles[index].flow[method];
    return Object.fromEntries(await Promise.all(MODELS.map(async (model) => {
      const parts = await Promise.all(Object.entries(flow[model]).map(async ([part, packed]) => [part, await unpack(packed)]));
      return [model, Object.fromEntries(parts)];
    })));
  });

  // Buttons of which one is chosen: a radio group, one stop of the Tab key, arrow keys within.
  const radios = (group, choose) => {
    const buttons = [...group.querySelectorAll("[role=radio]")];
    const set = (index) => {
      buttons.forEach((button, i) => {
        button.setAttribute("aria-checked", String(i === index));
        button.tabIndex = i === index ? 0 : -1;
      });
      choose(index);
    };
    group.addEventListener("click", (event) => {
      const index = buttons.indexOf(event.target.closest("[role=radio]"));
      if (index >= 0) set(index);
    });
    group.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const index = (buttons.indexOf(document.activeElement) + move + buttons.length) % buttons.length;
      buttons[index].focus();
      set(index);
    });
    return set;
  };

  // The summary's tokens as a list box: click or arrow keys choose one, the pointer shows one for as long as it rests.
  class Tokens {
    constructor(box, show, whole) {
      Object.assign(this, { box, show, whole, options: [], chosen: 0 });
      const at = (event) => this.options.indexOf(event.target.closest("[role=option]"));
      box.addEventListener("click", (event) => { if (at(event) >= 0) this.choose(at(event)); });
      box.addEventListener("pointerover", (event) => { if (event.pointerType === "mouse" && at(event) >= 0) this.mark(at(event)); });
      box.addEventListener("pointerleave", () => this.mark(this.chosen));
      box.addEventListener("keydown", (event) => {
        const last = this.options.length - 1;
        const to = { ArrowRight: this.chosen + 1, ArrowDown: this.chosen + 1, ArrowLeft: this.chosen - 1,
                     ArrowUp: this.chosen - 1, Home: 0, End: last }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        this.choose(Math.min(Math.max(to, 0), last));
      });
    }
    fill(article) {  // with `whole`, the first option stands for the mean over all of them
      const tokens = article.tokens.slice(article.prompt);
      const texts = this.whole ? ["whole summary", ...tokens] : tokens;
      this.options = texts.map((text, index) => {
        const mean = this.whole && index === 0;
        const option = make("span", mean ? "option whole" : "option", mean ? text : visible(text));
        option.setAttribute("role", "option");
        option.id = `${this.box.id}-${index}`;
        return option;
      });
      this.box.replaceChildren(...this.options);
      this.choose(this.whole ? 0 : Math.min(1, texts.length - 1));
    }
    choose(index) {
      this.chosen = index;
      this.options.forEach((option, i) => option.setAttribute("aria-selected", String(i === index)));
      this.box.setAttribute("aria-activedescendant", this.options[index].id);
      const option = this.options[index], box = this.box;  // scroll inside the box only, never the page
      if (option.offsetTop < box.scrollTop || option.offsetTop + option.offsetHeight > box.scrollTop + box.clientHeight) {
        box.scrollTop = option.offsetTop - box.clientHeight / 2;
      }
      this.mark(index);
    }
    mark(index) {
      this.options.forEach((option, i) => option.classList.toggle("shown", i === index));
      this.show(this.whole ? index - 1 : index);  // -1: the mean
    }
  }

  const largest = (row, from, to, count) => [...row.keys()].slice(from, to).sort((a, b) => row[b] - row[a]).slice(0, count)
    .filter((key) => row[key] > 0);

  const explorer = () => {
    const root = document.getElementById("explorer");
    const part = (name) => root.querySelector(`[data-part=${name}]`);
    const panes = Object.fromEntries(["base", "fine_tuned", "difference"].map((view) => [view, part(view)]));
    const state = { head: 0, article: 0, query: -1, spans: {}, rows: null };
    let shownRows = {};

    const row = (model, query) => {
      const { tokens, prompt } = articles[state.article];
      const T = tokens.length, m = T - prompt, all = state.rows[model], out = new Float64Array(T);
      const queries = query < 0 ? [...Array(m).keys()] : [query];
      for (const q of queries) {
        const start = (state.head * m + q) * T;
        for (let key = 0; key < T; key++) out[key] += SHARE[all[start + key]] / queries.length;
      }
      return out;
    };
    const paint = (query) => {
      if (!state.rows) return;
      state.query = query;
      const article = articles[state.article], { tokens, prompt } = article;
      const before = row("base", query), after = row("fine_tuned", query);
      const change = after.map((share, key) => share - before[key]);
      shownRows = { base: before, fine_tuned: after, difference: change };
      const last = query < 0 ? tokens.length - 2 : prompt - 1 + query;  // the query's own position
      // One or two tokens (the first, a full stop) hold most of many heads' attention and would leave all others pale:
      // the fourth largest share sets the scale.
      const fourth = (values) => Math.max(1e-4, [...values].sort((a, b) => b - a)[3] ?? 1);
      const top = Math.max(fourth(before), fourth(after)), far = fourth(change.map(Math.abs));
      const strength = (share, most) => 0.62 * Math.sqrt(Math.min(1, share / most));
      for (const [view, spans] of Object.entries(state.spans)) {
        spans.forEach((span, key) => {
          span.classList.toggle("later", key > last);
          const share = shownRows[view][key];
          const unsure = (Math.sqrt(before[key]) + Math.sqrt(after[key])) / 255;  // what the rounding alone can make
          if (view !== "difference") span.style.background = `rgba(var(--heat), ${strength(share, top).toFixed(3)})`;
          else {
            const alpha = Math.abs(share) <= unsure ? 0 : strength(Math.abs(share), far);
            span.style.background = `rgba(var(--${share > 0 ? "more" : "less"}), ${alpha.toFixed(3)})`;
          }
        });
      }
      const most = (shares) => largest(shares, 1, tokens.length, 3).map((key) => `${quoted(tokens[key])} ${percent(shares[key])}`).join(", ");
      const writing = query < 0 ? "over the whole summary" : `writing ${quoted(tokens[prompt + query])}`;
      part("reading").textContent = `Head ${heads[state.head]}, ${writing}. Base looks most at ${most(before) || "nothing"}, ` +
        `fine-tuned at ${most(after) || "nothing"}; the very first token has ${percent(before[0])} and ${percent(after[0])}.`;
      part("scale").textContent = `Strongest colour: ${percent(top)} of the attention or more; in the difference ${(100 * far).toFixed(1)} points.`;
    };
    const tokens = new Tokens(part("tokens"), paint, true);

    const fill = () => {
      const article = articles[state.article];
      for (const [view, pane] of Object.entries(panes)) {
        state.spans[view] = article.tokens.slice(0, -1).map((text, key) => {
          const span = make("span", key >= article.prompt ? "token summary" : "token", text.replace(/\n/g, "↵\n"));
          span.dataset.key = key;
          return span;
        });
        pane.replaceChildren(...state.spans[view]);
      }
      tokens.fill(article);
    };
    const load = async (index) => {
      state.article = index;
      state.rows = await rowsOf(index);
      if (state.article === index) fill();
    };
    const setHead = radios(part("heads"), (index) => { state.head = index; paint(state.query); });
    radios(part("views"), (index) => { part("panes").dataset.view = ["base", "fine_tuned", "difference"][index]; })(1);
    part("article").addEventListener("change", (event) => load(Number(event.target.value)));
    part("panes").addEventListener("pointerover", (event) => {
      const span = event.target.closest(".token");
      if (!span) return;
      const key = Number(span.dataset.key);
      part("pointed").textContent = `${quoted(articles[state.article].tokens[key])}: base ${percent(shownRows.base[key])}, ` +
        `fine-tuned ${percent(shownRows.fine_tuned[key])}, ${points(shownRows.difference[key])}`;
    });
    // Heads clicked in a heatmap, and links from the table of heads. The browser's Back leads to where the reader was.
    document.addEventListener("summlens:head", ({ detail }) => {
      const index = heads.indexOf(detail);
      history.pushState(null, "", "#explorer");
      root.scrollIntoView();
      if (index >= 0) {
        setHead(index);
        part("heads").querySelectorAll("[role=radio]")[index].focus({ preventScroll: true });
      } else {
        part("reading").textContent = `Where head ${detail} looks is not in this file. python analyze_latent_space.py ` +
          `--explore ${detail}, and then python visualize_metrics.py, put it here.`;
      }
    });
    return load(0).then(() => setHead(0));
  };

  const flow = () => {
    const root = document.getElementById("flow");
    const part = (name) => root.querySelector(`[data-part=${name}]`);
    const methods = ["rollout", "value_weighted"], svg = part("graph"), NS = "http://www.w3.org/2000/svg";
    const state = { article: 0, method: 0, query: 0, threshold: 0, data: null };
    const draw = (tag, attributes, text) => {
      const element = document.createElementNS(NS, tag);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      if (text !== undefined) element.textContent = text;
      return element;
    };
    const edgesOf = (model, query, layers) => {
      const { count, edges, weight } = state.data[model], found = [];
      let start = 0;
      for (let q = 0; q < query; q++) for (let l = 0; l < layers; l++) start += count[q * layers + l];
      for (let l = 0; l < layers; l++) {
        for (let e = start; e < start + count[query * layers + l]; e++) {
          const share = SHARE[weight[e]];
          if (share >= state.threshold) found.push({ layer: l, from: edges[2 * e], to: edges[2 * e + 1], share });
        }
        start += count[query * layers + l];
      }
      return found;
    };
    const paint = (query) => {
      if (!state.data) return;
      state.query = query;
      const article = articles[state.article], { tokens, prompt, layers } = article;
      const isArticle = (key) => key >= article.article[0] && key < article.article[1];
      const found = Object.fromEntries(MODELS.map((model) => [model, edgesOf(model, query, layers)]));
      const target = prompt - 1 + query;
      const used = [...new Set([target, ...MODELS.flatMap((model) => found[model].flatMap((e) => [e.from, e.to]))])].sort((a, b) => a - b);
      // Tokens are rows, so that their texts read from left to right and a phone scrolls downwards; layers are columns.
      const row = 16, top = 44, labels = 92, between = 26;
      const panel = Math.min(380, Math.max(96, (svg.parentElement.clientWidth - labels - between - 12) / 2));
      const place = new Map(used.map((key, index) => [key, top + row * (index + 0.5)]));
      const width = labels + 2 * panel + between + 8, height = top + row * used.length + 6;
      const parts = used.map((key) => draw("text", {
        x: labels - 12, y: place.get(key) + 4, "text-anchor": "end",
        class: key === target ? "label target" : isArticle(key) ? "label article" : "label",
      }, visible(tokens[key]).slice(0, 12)));
      MODELS.forEach((model, index) => {
        const left = labels + index * (panel + between), x = (layer) => left + (panel * layer) / layers;
        parts.push(draw("text", { x: left, y: 14, class: "title" }, NAMES[model]));
        for (let l = 0; l <= layers; l += Math.ceil(layers / Math.min(12, panel / 22))) {
          parts.push(draw("text", { x: x(l), y: top - 10, "text-anchor": "middle" }, String(l)));
          parts.push(draw("line", { x1: x(l), x2: x(l), y1: top - 4, y2: height - 4, class: "level" }));
        }
        for (const e of [...found[model]].reverse()) {
          const line = draw("line", {
            x1: x(e.layer), y1: place.get(e.from), x2: x(e.layer + 1), y2: place.get(e.to),
            class: e.from === e.to ? "edge stay" : isArticle(e.from) ? "edge article" : "edge other",
            "stroke-width": Math.max(0.8, 14 * e.share).toFixed(2), "stroke-linecap": "round",
            "stroke-opacity": (0.25 + 0.5 * Math.min(1, e.share / 0.03)).toFixed(2),
          });
          line.append(draw("title", {}, `${quoted(tokens[e.from])} to ${quoted(tokens[e.to])}, layer ${e.layer}: ${percent(e.share)} of the flow`));
          parts.push(line);
        }
        parts.push(draw("circle", { cx: x(layers), cy: place.get(target), r: 5, class: "target" }));
      });
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("width", width);
      svg.setAttribute("height", height);
      svg.replaceChildren(...parts);
      const said = MODELS.map((model) => {
        const T = tokens.length, sources = state.data[model].sources.subarray(query * T, (query + 1) * T);
        const shares = Float64Array.from(sources, (q) => SHARE[q]);
        let sum = 0;
        for (let key = Math.max(article.article[0], 1); key < article.article[1]; key++) sum += shares[key];
        const best = largest(shares, Math.max(article.article[0], 1), article.article[1], 3);
        const most = best.map((key) => `${quoted(tokens[key])} ${percent(shares[key])}`).join(", ");
        const drawn = found[model].filter((e) => e.layer === 0).reduce((all, e) => all + e.share, 0);
        return `${NAMES[model]}: ${percent(sum)} from the article${most ? `, most from ${most}` : ""} (lines carry ${percent(drawn)} of the first layer’s flow)`;
      });
      const method = part("methods").querySelectorAll("[role=radio]")[state.method].textContent.trim().toLowerCase();
      part("reading").textContent = `Writing ${quoted(tokens[prompt + query])}, by ${method}. ${said.join(". ")}.`;
      svg.setAttribute("aria-label", part("reading").textContent);
    };
    const tokens = new Tokens(part("tokens"), paint, false);
    const load = async (refill) => {
      const wanted = `${state.article} ${state.method}`;
      const data = await flowOf(state.article, methods[state.method]);
      if (wanted !== `${state.article} ${state.method}`) return;
      state.data = data;
      if (refill) tokens.fill(articles[state.article]); else paint(state.query);
    };
    part("article").addEventListener("change", (event) => { state.article = Number(event.target.value); load(true); });
    radios(part("methods"), (index) => { state.method = index; if (state.data) load(false); });
    const threshold = () => {  // from the stored one up, each stop of the slider about one and a half times the last
      const least = Number(part("threshold").dataset.least);
      state.threshold = least * 1.5 ** Number(part("threshold").value);
      part("threshold-value").textContent = percent(state.threshold);
      part("threshold").setAttribute("aria-valuetext", percent(state.threshold));
      paint(state.query);
    };
    part("threshold").addEventListener("input", threshold);
    threshold();
    addEventListener("resize", () => paint(state.query));
    return load(true);
  };

  if (typeof DecompressionStream === "undefined") {
    for (const id of ["explorer", "flow"]) {
      document.getElementById(id).querySelector("[data-part=reading]").textContent =
        "This browser is too old to unpack the attention maps (it has no DecompressionStream).";
    }
    return;
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-head]");
    if (link && link.matches("a")) {
      event.preventDefault();
      document.dispatchEvent(new CustomEvent("summlens:head", { detail: link.dataset.head }));
    }
  });
  Promise.all([explorer(), flow()]).then(() => { document.documentElement.dataset.explorer = "ready"; });
})();
