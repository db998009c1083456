// Draws the page's figures from one store of points, and moves along a front by preference.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const parsed = (element) => JSON.parse(element.textContent);
  const numbers = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Float64Array(bytes.buffer);
  };

  // ------------------------------------------------------------------ the store

  const store = byId("points") ? parsed(byId("points")) : { objectives: [], preferences: [], runs: [] };
  const m = store.objectives.length;
  const grids = store.preferences.map(numbers);
  for (const run of store.runs) {
    run.values = numbers(run.values);
    run.grid = run.preferences === null ? null : grids[run.preferences];
    run.width = run.grid ? run.grid.length / run.points : 0;
  }
  // Column j of "v" is an objective, of "p" an entry of the preference.
  const at = (run, i, column) => {
    const j = +column.slice(1);
    return column[0] === "v" ? run.values[i * m + j] : run.grid[i * run.width + j];
  };
  const row = (run, r, i) => [
    ...(run.grid ? run.grid.subarray(i * run.width, (i + 1) * run.width) : []),
    ...run.values.subarray(i * m, (i + 1) * m),
    run.seed, r, i,
  ];
  const heights = (run, i, span) => {
    const up = [];
    for (let j = 0; j < m; j++) {
      const wide = span.best[j] - span.worst[j];
      up.push(wide ? (run.values[i * m + j] - span.worst[j]) / wide : 1);
    }
    return up;
  };

  // ------------------------------------------------------------------ figures

  const fill = (trace) => {
    const rule = trace.meta && trace.meta.points;
    if (!rule) return;
    const data = [], columns = (rule.axes || []).map(() => []), x = [], y = [];
    for (const r of rule.runs) {
      const run = store.runs[r];
      for (let i = 0; i < run.points; i++) {
        if (rule.dominated !== undefined && (run.dominated[i] === "1") !== rule.dominated) continue;
        const said = row(run, r, i);
        if (rule.span) {
          // A gap after every point, so that one trace holds all of them.
          heights(run, i, rule.span).forEach((h, j) => { x.push(j); y.push(h); data.push(said); });
          x.push(null); y.push(null); data.push(said);
          continue;
        }
        data.push(said);
        rule.axes.forEach((column, k) => columns[k].push(at(run, i, column)));
      }
    }
    if (rule.span) columns.push(x, y);
    ["x", "y", "z"].slice(0, columns.length).forEach((name, k) => { trace[name] = columns[k]; });
    trace.customdata = data;
  };

  const plots = [];
  const draw = async (element) => {
    const figure = parsed(element), div = byId(element.dataset.plot);
    figure.data.forEach(fill);
    for (const trace of figure.data) {
      const same = trace.meta && figure.data[trace.meta.same];
      if (same) Object.assign(trace, { x: same.x, y: same.y });
    }
    await Plotly.newPlot(div, figure.data, figure.layout, figure.config);
    const shapes = (figure.layout.shapes || []).slice();
    plots.push({ div, shapes, places: (figure.layout.meta || {}).places || [] });
    div.on("plotly_click", (event) => {
      const said = event.points[0].customdata;
      if (control && said && said.length > 3) control.choose(said.at(-2), said.at(-1));
    });
    if (control) control.mark(plots.at(-1));
    if (plots.length === 1) performance.mark("first-drawn");
  };

  // ------------------------------------------------------------------ the control

  const short = (x, digits = 5) => {
    if (x === null || x === undefined) return "–";
    if (Number.isInteger(x) && Math.abs(x) < 1e15) return x.toLocaleString("en-US");
    return String(+x.toPrecision(digits));
  };
  const element = (tag, text = "", more = {}) =>
    Object.assign(document.createElement(tag), { textContent: text }, more);

  const INK = "#24292f";
  const rings = (x, y, place) => [["#ffffff", 6], [INK, 2.5]].map(([color, width]) => ({
    type: "circle", xref: place.x, yref: place.y, xsizemode: "pixel", ysizemode: "pixel",
    xanchor: x, yanchor: y, x0: -10, x1: 10, y0: -10, y1: 10, line: { color, width },
  }));
  const path = (up) => ({
    type: "path", xref: "x", yref: "y", line: { color: INK, width: 3.5 },
    path: up.map((h, j) => `${j ? "L" : "M"}${j},${h}`).join(""),
  });

  const makeControl = () => {
    if (!byId("explore")) return null;
    const labels = [...new Set(store.runs.map((run) => run.label))];
    const method = byId("explore-method"), seed = byId("explore-seed");
    let chosen = 0, point = 0, wanted = [], sliders = [];

    const mark = ({ div, shapes, places }) => {
      const run = store.runs[chosen], hidden = Boolean(run.unusable), drawn = [];
      for (const place of places) {
        if (place.trace !== undefined) {
          const axes = hidden ? [[null], [null], [null]] : place.axes.map((c) => [at(run, point, c)]);
          Plotly.restyle(div, { x: [axes[0]], y: [axes[1]], z: [axes[2]] }, [place.trace]);
        } else if (hidden || (place.needs && run.width !== place.needs)) {
          continue;
        } else if (place.span) {
          drawn.push(path(heights(run, point, place.span)));
        } else {
          drawn.push(...rings(at(run, point, place.axes[0]), at(run, point, place.axes[1]), place));
        }
      }
      if (places.some((place) => place.trace === undefined))
        Plotly.relayout(div, { shapes: [...shapes, ...drawn] });
    };

    // A slider may fire faster than plots are drawn: each frame takes the latest state only.
    let due = false;
    const markAll = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; plots.forEach(mark); });
    };

    const onSimplex = (run, i) => {
      const p = Array.from(run.grid.subarray(i * run.width, (i + 1) * run.width));
      const total = p.reduce((a, b) => a + b, 0);
      return p.map((x) => x / total);
    };

    const nearest = (run) => {
      let best = 0, least = Infinity;
      for (let i = 0; i < run.points; i++) {
        const gap = Math.hypot(...onSimplex(run, i).map((x, j) => x - wanted[j]));
        if (gap < least - 1e-12) [best, least] = [i, gap];
      }
      return [best, least];
    };

    const say = (distance) => {
      const run = store.runs[chosen], said = byId("explore-said");
      const asked = run.asked.length ? Array.from(run.grid.subarray(
        point * run.width, (point + 1) * run.width)) : [];
      const facts = element("dl");
      store.objectives.forEach((o, j) => {
        const pair = element("div");
        const value = element("dd", short(run.values[point * m + j]), { id: `explore-value-${j}` });
        if (o.unit) value.append(" ", element("small", o.unit));
        pair.append(element("dt", o.label.replace(` [${o.unit}]`, "")), value);
        facts.append(pair);
      });
      for (const [key, of] of Object.entries(run.costs)) {
        if (of[point] === null) continue;
        const pair = element("div", "", { className: "cost" });
        pair.append(element("dt", `cost: ${key.replaceAll("_", " ")}`),
          element("dd", short(of[point], 4), { id: `explore-cost-${key}` }));
        facts.append(pair);
      }
      const far = distance < 1e-6 ? " as asked" : `, ${short(distance, 2)} away`;
      const note = run.dominated[point] === "1" ? "; dominated by another point of this run" : "";
      said.replaceChildren(facts, element("p",
        `Nearest evaluated preference: (${asked.map((x) => short(x, 4)).join(", ")})${far}, point ` +
        `${point + 1} of ${run.points}${note}.`, { id: "explore-nearest" }));
      const exact = asked.map((x) => String(+x.toPrecision(12))).join(",");
      byId("explore-export").hidden = !run.command;
      // Options are not broken at their hyphens.
      const option = (name) => element("span", `--${name}`);
      byId("explore-command").replaceChildren(...(run.command
        ? [`${run.command} `, option("preference"), ` ${exact} `, option("out"), " model"] : []));
      byId("explore-copy").textContent = "Copy";
      byId("explore-why").textContent = run.command ? "" : `No export command: ${run.why}.`;
    };

    const show = () => {
      const run = store.runs[chosen];
      sliders.forEach(({ input, output, entry }) => {
        input.value = wanted[entry];
        input.setAttribute("aria-valuetext", run.width === 2
          ? run.asked.map((name, j) => `${name} ${short(wanted[j], 3)}`).join(", ")
          : `${run.asked[entry]} ${short(wanted[entry], 3)}`);
        output.textContent = run.width === 2
          ? `${wanted[0].toFixed(2)} : ${wanted[1].toFixed(2)}` : wanted[entry].toFixed(2);
      });
      const [found, distance] = nearest(run);
      point = found;
      say(distance);
      markAll();
    };

    // Moving one entry leaves the proportions of the others as they are.
    const move = (entry, value) => {
      const rest = 1 - wanted[entry];
      wanted = wanted.map((x, j) => j === entry ? value
        : rest > 1e-9 ? x * (1 - value) / rest : (1 - value) / (wanted.length - 1));
      show();
    };

    const build = () => {
      const run = store.runs[chosen], box = byId("explore-sliders");
      const idle = Boolean(run.unusable);
      for (const id of ["explore-step", "explore-sliders", "explore-export"]) byId(id).hidden = idle;
      box.className = run.width > 2 ? "many" : "";
      sliders = [];
      box.replaceChildren();
      if (idle) {
        byId("explore-said").replaceChildren(
          element("p", `There is no preference to slide along: ${run.unusable}.`));
        byId("explore-why").textContent = byId("explore-meaning").textContent = "";
        markAll();
        return;
      }
      const entries = run.width === 2 ? [0] : [...Array(run.width).keys()];
      for (const entry of entries) {
        const id = `explore-slider-${entry}`, line = element("div", "", { className: "slider" });
        const name = run.width === 2 ? `preference for ${run.asked[0]} : ${run.asked[1]}`
          : `preference for ${run.asked[entry]}`;
        const input = element("input", "", { type: "range", id, min: 0, max: 1, step: 0.01 });
        const output = element("output", "", { htmlFor: id });
        input.addEventListener("input", () => move(entry, +input.value));
        line.append(element("label", name, { htmlFor: id }), input, output);
        if (run.width === 2) {
          const ends = element("div", "", { className: "ends" });
          ends.setAttribute("aria-hidden", "true");
          const end = (name) => element("span", run.kind === "ray" ? `large ${name} allowed` : `all for ${name}`);
          ends.append(end(run.asked[1]), end(run.asked[0]));
          line.append(ends);
        }
        box.append(line);
        sliders.push({ input, output, entry });
      }
      const meaning = { weight: "A larger entry asks for a better value.",
        ray: "A larger entry allows a larger value." }[run.kind];
      byId("explore-meaning").textContent = meaning || "";
      // Another run keeps what was asked for, if it is asked in the same way.
      if (wanted.length !== run.width) wanted = Array(run.width).fill(1 / run.width);
      show();
    };

    const seeds = () => {
      const mine = store.runs.map((run, r) => [run, r]).filter(([run]) => run.label === method.value);
      seed.replaceChildren(...mine.map(([run, r], k) =>
        element("option", run.seed === null ? `not stated (${k + 1})` : run.seed, { value: r })));
    };
    const select = (r) => {
      method.value = store.runs[r].label;
      seeds();
      seed.value = r;
      chosen = r;
      build();
    };
    const choose = (r, i) => {
      if (!store.runs[r].unusable) wanted = onSimplex(store.runs[r], i);
      select(r);
      if (!store.runs[r].unusable) { point = i; say(0); markAll(); }
    };
    const step = (by) => {
      const run = store.runs[chosen], order = [...Array(run.points).keys()];
      // Two entries have an order of their own; with more it is that of the front.
      if (run.width === 2)
        order.sort((a, b) => onSimplex(run, a)[0] - onSimplex(run, b)[0] || a - b);
      const next = order.indexOf(point) + by;
      if (next >= 0 && next < order.length) choose(chosen, order[next]);
    };

    method.replaceChildren(...labels.map((label) => element("option", label, { value: label })));
    method.addEventListener("change", () => {
      const before = store.runs[chosen].seed;
      seeds();
      const same = store.runs.findIndex((run) => run.label === method.value && run.seed === before);
      select(same >= 0 ? same : +seed.value);
    });
    seed.addEventListener("change", () => select(+seed.value));
    byId("explore-back").addEventListener("click", () => step(-1));
    byId("explore-on").addEventListener("click", () => step(1));
    byId("explore-copy").addEventListener("click", async () => {
      const code = byId("explore-command");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {  // not every browser allows it for a file: copy the selection instead
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      byId("explore-copy").textContent = "Copied";
    });
    const first = store.runs.findIndex((run) => !run.unusable);
    const api = { mark, choose, start: () => select(first) };
    return api;
  };

  const control = makeControl();
  if (control) control.start();

  // One figure per task: what is drawn already can be used while the rest is on its way.
  (async () => {
    for (const figure of document.querySelectorAll("script.figure")) {
      await draw(figure);
      await new Promise((done) => setTimeout(done));
    }
    document.documentElement.dataset.drawn = plots.length;
    performance.mark("drawn");
  })();
})();
