// Each function returns the traces and the layout of one figure for the rows that are shown.

function theme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return { text: colour("text"), faint: colour("faint"), line: colour("line"), card: colour("card") };
}

function layout(more) {
  const { text, line, card } = theme();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
    font: { color: text, size: 12, family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif" },
    margin: { l: 52, r: 12, t: 10, b: 44 }, hoverlabel: { bgcolor: card, bordercolor: line, font: { color: text }, align: "left" },
    ...more, xaxis: { ...axis, ...more.xaxis }, yaxis: { ...axis, ...more.yaxis },
  };
}

const bar = (values, colour) => ({ type: "data", array: values, visible: values.some(Boolean), thickness: 1, width: 3, color: colour });

// One trace of markers for each method, the full network, the front, and hollow markers for published points.
function accuracyAgainst(section, rows, cost) {
  const { table, colours, symbols } = section;
  const { text, faint } = theme();
  const traces = [];
  const known = rows.filter((row) => row.costs[cost]);
  const front = known.filter((row) => row.front.includes(cost)).map((row) => [row.costs[cost][0], row.top1[0]]);
  const full = table.baseline.costs[cost] && [table.baseline.costs[cost][0], table.baseline.top1[0]];
  if (front.length) {
    if (full && front.every(([x, y]) => x < full[0] && y < full[1])) front.push(full);
    front.sort((a, b) => a[0] - b[0]);
    traces.push({ name: "Pareto front", x: front.map(([x]) => x), y: front.map(([, y]) => 100 * y), mode: "lines", line: { shape: "hv", dash: "dot", width: 1.5, color: faint }, hoverinfo: "skip" });
  }
  for (const method of section.filters.methods) {
    const own = known.filter((row) => row.method === method);
    if (!own.length) continue;
    traces.push({
      name: method, mode: "markers", x: own.map((row) => row.costs[cost][0]), y: own.map((row) => 100 * row.top1[0]),
      error_x: bar(own.map((row) => row.costs[cost][1]), colours.get(method)), error_y: bar(own.map((row) => 100 * row.top1[1]), colours.get(method)),
      marker: { color: colours.get(method), symbol: symbols.get(method), size: 9 }, text: own.map((row) => `${escaped(row.label)}<br>${counted(row.runs.length, "seed")}`),
      hovertemplate: "%{text}<br>%{y:.2f} % top-1, %{x:.4s}<extra></extra>",
    });
  }
  if (cost === "flops" && table.published.length) traces.push(publishedMarkers(section));
  if (full) traces.push({ name: "baseline", mode: "markers", x: [full[0]], y: [100 * full[1]], marker: { symbol: "star", size: 13, color: text }, hovertemplate: "full network<br>%{y:.2f} % top-1, %{x:.4s}<extra></extra>" });
  const scale = cost === "flops" || cost === "params" ? { tickformat: ".3~s" } : {};
  return [traces, layout({ xaxis: { title: { text: COSTS[cost] }, ...scale }, yaxis: { title: { text: "Top-1, %" } } })];
}

// Accuracy against the median latency on a target: a marker for each network, hollow if its precision is below float32,
// the full network, and the front of all networks on this target.
function accuracyOnTarget(section, rows, target) {
  const { table, colours, symbols } = section;
  const { text, faint } = theme();
  const shown = new Set(rows);
  const all = target.points.map(([row, stage, ms, top1, front]) => ({ row: row === null ? null : table.rows[row], stage, ms, top1, front }));
  const front = all.filter((point) => point.front).sort((a, b) => a.ms - b.ms);
  const traces = [];
  if (front.length > 1) traces.push({ name: "Pareto front", x: front.map((point) => point.ms), y: front.map((point) => 100 * point.top1), mode: "lines", line: { shape: "hv", dash: "dot", width: 1.5, color: faint }, hoverinfo: "skip" });
  for (const method of section.filters.methods) {
    const own = all.filter((point) => point.row && point.row.method === method && shown.has(point.row));
    if (!own.length) continue;
    const low = (point) => /, (int8|fp16|bf16)/.test(point.stage);
    traces.push({
      name: method, mode: "markers", x: own.map((point) => point.ms), y: own.map((point) => 100 * point.top1),
      marker: { size: 9, color: colours.get(method), line: { width: 1.6, color: colours.get(method) }, symbol: own.map((point) => `${symbols.get(method)}${low(point) ? "-open" : ""}`) },
      text: own.map((point) => `${escaped(point.row.label)}<br>${escaped(point.stage)}`), hovertemplate: "%{text}<br>%{y:.2f} % top-1, %{x:.4g} ms<extra></extra>",
    });
  }
  const full = all.filter((point) => !point.row);
  if (full.length) traces.push({ name: "baseline", mode: "markers", x: full.map((point) => point.ms), y: full.map((point) => 100 * point.top1), marker: { symbol: "star", size: 13, color: text }, hovertemplate: "full network<br>%{y:.2f} % top-1, %{x:.4g} ms<extra></extra>" });
  return [traces, layout({ xaxis: { title: { text: "Milliseconds, median" }, rangemode: "tozero" }, yaxis: { title: { text: "Top-1, %" } } })];
}

function publishedMarkers(section) {
  const shown = section.table.published;
  const plain = (name) => name.toLowerCase().replace(/[^a-z0-9]/g, "");
  const known = new Map(section.filters.methods.map((method) => [plain(method), method]));
  const of = (map, point, other) => (known.has(plain(point.method)) ? map.get(known.get(plain(point.method))) : other);
  return {
    name: "published", mode: "markers", x: shown.map((point) => point.flops), y: shown.map((point) => 100 * point.top1),
    marker: {
      size: 9, line: { width: 1.6 }, color: shown.map((point) => of(section.colours, point, theme().faint)),
      symbol: shown.map((point) => `${of(section.symbols, point, "circle")}-open`),
    },
    text: shown.map((point) => `${escaped(point.method)}, published${point.note ? `<br>${wrapped(escaped(point.note))}` : ""}`),
    hovertemplate: "%{text}<br>%{y:.2f} % top-1, %{x:.4s}<extra></extra>",
  };
}

function wrapped(text) {
  return text.replace(/(.{1,60})(\s|$)/g, "$1<br>");
}

// The fraction of channels that each group keeps; one line for each row of the table.
function widthsKept(section, rows) {
  const { groups } = section.table;
  const narrow = section.element.clientWidth < 600;
  const some = rows.filter((row) => row.kept.some(Boolean));
  const share = (pair) => (pair && pair[0] ? pair[1] / pair[0] : null);
  const traces = [{
    type: "heatmap", x: groups, y: some.map((_, index) => index), z: some.map((row) => row.kept.map(share)), zmin: 0, zmax: 1, colorscale: "Viridis", xgap: 1, ygap: 1,
    text: some.map((row) => row.kept.map((pair) => (pair ? `${pair[1]} of ${pair[0]} channels` : "not pruned"))),
    customdata: some.map((row) => groups.map(() => escaped(row.label))),
    hovertemplate: "%{customdata}<br>%{x}: %{text} (%{z:.0%})<extra></extra>", colorbar: { tickformat: ".0%", thickness: 10, len: 1, outlinewidth: 0, ...(narrow ? { orientation: "h", y: 1, yanchor: "bottom", tickfont: { size: 10 } } : {})},
  }];
  const size = some.length > 60 ? 8 : 20;
  const every = Math.max(1, Math.ceil(14 / size));
  const named = some.map((row, index) => [index, row.label]).filter(([index]) => index % every === 0);
  const most = narrow ? 16 : 46;
  const height = Math.min(2400, Math.max(220, size * some.length + 110));
  return [traces, layout({
    height, xaxis: { tickangle: -60, tickfont: { size: 10 }, showgrid: false, type: "category" },
    yaxis: { autorange: "reversed", showgrid: false, tickfont: { size: 10.5 }, tickvals: named.map(([index]) => index), ticktext: named.map(([, label]) => escaped(label.length > most ? `${label.slice(0, most - 1)}…` : label)) },
    margin: { l: 20, r: 8, t: narrow ? 30 : 8, b: 60 },
  })];
}

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const MOST_IN_LEGEND = 24;

// Mean and sample standard deviation over the runs of a row, for each epoch; runs are aligned by phase and epoch.
function meanCurve(row, figure) {
  const places = new Map(); // "phase, epoch 3" -> values
  for (const curves of row.curves.filter((each) => each && each.figures[figure])) {
    const names = curves.phases.flatMap(([phase, epochs]) => Array.from({ length: epochs }, (_, epoch) => `${phase}, epoch ${epoch + 1}`));
    curves.figures[figure].forEach((value, index) => {
      if (!places.has(names[index])) places.set(names[index], []);
      if (value !== null) places.get(names[index]).push(value);
    });
  }
  return [...places].map(([name, values]) => {
    if (!values.length) return { name, mean: null, deviation: null, count: 0 };
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return { name, mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : null, count: values.length };
  });
}

// One line for each row of the table: colour by method, dash by place among the rows of that method; a band of one
// standard deviation around it.
function learningCurves(section, rows, figure) {
  const lines = [], bands = [];
  for (const method of section.filters.methods) {
    const colour = section.colours.get(method);
    const band = { x: [], y: [] };
    rows.filter((row) => row.method === method).forEach((row, place) => {
      const curve = meanCurve(row, figure);
      if (!curve.some((each) => each.mean !== null)) return;
      const text = curve.map((each) => `${escaped(row.label)}<br>${escaped(each.name)}, ${counted(each.count, "seed")}${each.deviation === null ? "" : `, ± ${each.deviation.toPrecision(3)}`}`);
      lines.push({
        name: escaped(row.label), x: curve.map((_, index) => index + 1), y: curve.map((each) => each.mean), text, mode: curve.length < 60 ? "lines+markers" : "lines",
        line: { color: colour, width: 1.8, dash: DASHES[place % DASHES.length] }, marker: { size: 4, symbol: section.symbols.get(method) }, hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>",
      });
      const spread = curve.map((each, index) => [index + 1, each.mean, each.deviation]).filter(([, , deviation]) => deviation);
      if (spread.length < 2) return;
      band.x.push(...spread.map(([x]) => x), ...spread.map(([x]) => x).reverse(), null);
      band.y.push(...spread.map(([, mean, deviation]) => mean + deviation), ...spread.map(([, mean, deviation]) => mean - deviation).reverse(), null);
    });
    if (band.x.length) bands.push({ name: `${escaped(method)}, deviation`, ...band, mode: "lines", line: { width: 0 }, fill: "toself", fillcolor: `${colour}2e`, hoverinfo: "skip", showlegend: false });
  }
  const share = /top\d$/.test(figure) ? { tickformat: ".0%" } : {};
  const few = lines.every((line) => line.x.length <= 10) ? { dtick: 1 } : {};
  const narrow = section.element.clientWidth < 600;
  const legend = narrow ? { orientation: "h", y: -0.25, font: { size: 10 } } : { font: { size: 11 }, tracegroupgap: 0 };
  return [[...bands, ...lines], layout({
    showlegend: lines.length > 1 && lines.length <= MOST_IN_LEGEND, legend,
    xaxis: { title: { text: "Epoch, all phases in sequence" }, tickformat: "d", rangemode: "tozero", ...few }, yaxis: { title: { text: figure }, ...share },
  })];
}

// Every judged candidate of a search: its cost against its score, coloured by its place in the search (0 = first).
function searches(section, rows) {
  const traces = [];
  for (const row of rows) {
    for (const { seed, phase, kept, score } of row.searches) {
      const places = score.map((_, index) => (score.length > 1 ? index / (score.length - 1) : 1));
      traces.push({
        name: escaped(row.label), mode: "markers", x: kept, y: score, text: score.map((_, index) => `${escaped(row.label)}, seed ${seed}<br>${escaped(phase)}, candidate ${index + 1} of ${score.length}`),
        marker: { symbol: section.symbols.get(row.method), size: 7, color: places, cmin: 0, cmax: 1, colorscale: "Viridis", line: { width: 1.5, color: section.colours.get(row.method) },
          showscale: !traces.length, colorbar: { title: { text: "place in the search", side: "right" }, tickvals: [0, 1], ticktext: ["first", "last"], thickness: 10, outlinewidth: 0 } },
        hovertemplate: "%{text}<br>%{y:.4g} on held-out images, %{x:.1%} kept<extra></extra>",
      });
    }
  }
  const share = traces.every((trace) => trace.y.every((score) => score >= 0 && score <= 1)) ? { tickformat: ".0%" } : {};
  return [traces, layout({ xaxis: { title: { text: "Kept fraction of the budget's resource" }, tickformat: ".1%" }, yaxis: { title: { text: "Score on held-out images" }, ...share } })];
}
