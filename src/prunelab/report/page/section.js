// One table of the study with its filters and figures.

class Section {
  constructor(table, element) {
    this.table = table;
    this.element = element;
    this.filters = new Filters(table);
    table.frontColumn = table.columns.findIndex((column) => column.header[0] === "Front");
    this.colours = new Map(this.filters.methods.map((method, index) => [method, PALETTE[index % PALETTE.length]]));
    this.symbols = new Map(this.filters.methods.map((method, index) => [method, SYMBOLS[Math.floor(index / PALETTE.length) % SYMBOLS.length]]));
    this.figures = []; // {element, make, seen}
    this.runs = table.rows.flatMap((row) => row.curves);
    element.innerHTML = this.markup();
    this.grid = new Grid(this, element.querySelector(".scroll"));
    this.listen();
    this.grid.draw(this.filters.rows());
    this.addFigures();
  }

  markup() {
    const { table } = this;
    const { baseline } = table;
    const met = table.checklist.filter((item) => item.met).length;
    const facts = [
      [percent(baseline.top1[0]), "top-1 of the full network"],
      [count(baseline.costs.flops[0]), "FLOPs"], [count(baseline.costs.params[0]), "parameters"],
      [`${this.runs.length}`, `runs in ${counted(table.rows.length, "row")}`], [`${met} of ${table.checklist.length}`, "checklist items met"],
    ];
    return `<h2>${escaped(table.title)}</h2><p class="faint">${escaped(table.common)}</p>
      <div class="facts">${facts.map(([value, what]) => `<div class="fact"><b>${escaped(value)}</b><span>${escaped(what)}</span></div>`).join("")}</div>
      <div class="card filters" role="search">${this.controls()}</div>
      <div class="charts">${["flops", "params", "time"].map((each) => `<div class="card"><div class="head"><h3>Accuracy against ${each === "time" ? this.batches() : each === "params" ? "parameters" : COSTS[each]}</h3></div><div class="figure" data-figure="${each}"></div></div>`).join("")}</div>
      ${this.targetCard()}
      <p class="key">★ full network · dotted line: Pareto front · bars: standard deviation over seeds${table.published.length ? " · hollow: published" : ""}</p>
      <div class="card"><div class="head"><h3>All rows</h3><span class="faint shown" aria-live="polite"></span></div><p class="key">Click a column to sort by it, or a method to show the stages of its runs and the commands that repeat them.</p><div class="scroll" tabindex="0" role="region" aria-label="All rows"></div></div>
      <div class="card"><h3>Channels kept in each group</h3><div data-figure="widths"></div></div>
      ${this.curvesCard()}
      ${this.searchCard()}
      ${this.publishedTable()}
      ${this.remarks()}`;
  }

  // The checklist, and next to it the warnings of this table if there are any.
  remarks() {
    const { table } = this;
    const lines = [...table.failures, ...table.warnings, ...table.flags];
    const checklist = `<div class="card"><h3>Checklist of Blalock et al. (2020)</h3>${checked(table.checklist)}</div>`;
    return lines.length ? `<div class="two">${checklist}<div class="card"><h3>Warnings and remarks</h3>${listed(lines)}</div></div>` : checklist;
  }

  controls() {
    const selects = this.filters.choices().map(({ index, title, texts }) => `<label>${escaped(title)} <select data-column="${index}"><option value="">all</option>${texts.map((text) => `<option>${escaped(text)}</option>`).join("")}</select></label>`).join("");
    const fronts = Object.entries(COSTS).map(([cost, title]) => `<option value="${cost}">${escaped(title)}</option>`).join("");
    const methods = this.filters.methods.map((method) => `<button type="button" aria-pressed="true" data-method="${escaped(method)}"><i style="background:${this.colours.get(method)}"></i>${escaped(method)}</button>`).join("");
    return `<input type="search" placeholder="Search the rows" aria-label="Search the rows">${selects}
      <label>Pareto front <select class="front"><option value="">all rows</option>${fronts}</select></label>
      <div class="methods">${methods}<button type="button" class="all">show all</button></div>`;
  }

  batches() {
    return `time <select class="batch" aria-label="Batch size"><option value="forward_ms_batch_64">batch of 64</option><option value="forward_ms_batch_1">batch of 1</option></select>`;
  }

  curveChoice() {
    const names = [...new Set(this.runs.flatMap((curves) => (curves ? Object.keys(curves.figures) : [])))];
    const preferred = ["val/top1", "val/loss", "train/top1", "train/loss", "learning_rate", "val/top5"];
    names.sort((a, b) => (preferred.indexOf(a) + 99) % 99 - (preferred.indexOf(b) + 99) % 99);
    return names.length ? `<select class="figure-name" aria-label="Figure">${names.map((name) => `<option>${escaped(name)}</option>`).join("")}</select>` : "";
  }

  curvesCard() {
    const choice = this.curveChoice();
    const figure = choice ? `<p class="key">One line per row: the mean over its seeds. Shaded: one standard deviation.</p><div class="figure tall" data-figure="curves"></div>` : "";
    return `<div class="card"><div class="head"><h3>Learning curves</h3>${choice}</div>${this.curveNote()}${figure}</div>`;
  }

  searchCard() {
    if (!this.table.rows.some((row) => row.searches.length)) return "";
    return `<div class="card"><h3>Searches</h3><p class="key">Each point is a candidate that a search has judged. The outline has the colour of the method.</p><div class="figure tall" data-figure="searches"></div></div>`;
  }

  // The figure of accuracy against latency, if the networks were timed after their stages.
  targetCard() {
    const { targets } = this.table;
    if (!targets.length) return "";
    const choices = targets.map(({ name }, index) => `<option value="${index}">${escaped(name)}</option>`).join("");
    return `<div class="card"><div class="head"><h3>Accuracy against latency on a target</h3><select class="target" aria-label="Target">${choices}</select></div><p class="key">Each network after its last stage, and exported. Hollow: fewer bits than float32. "file": an exported file, with the conversion of its inputs.</p><div class="figure tall" data-figure="target"></div></div>`;
  }

  curveNote() {
    const lacking = this.runs.filter((curves) => !curves).length;
    return lacking ? `<p class="faint">${lacking} of ${counted(this.runs.length, "run")} ${lacking === 1 ? "has" : "have"} no curves.csv beside the record.</p>` : "";
  }

  publishedTable() {
    const alone = this.table.published.filter((point) => point.alone);
    if (!alone.length) return "";
    const lines = alone.map((point) => `<tr><td>${escaped(point.method)}</td><td class="number">${percent(point.baseline_top1)}</td><td class="number">${percent(point.top1)}</td><td class="number">${points(point.change)}</td><td class="number">${point.printed_change === null ? "" : points(point.printed_change)}</td><td class="number">${count(point.flops)}</td><td class="number">${percent(1 - point.flops / point.baseline_flops, 1)}</td><td class="number">${point.printed_pruned === null ? "" : percent(point.printed_pruned, 0)}</td><td class="long">${escaped(point.note || point.flag)}</td></tr>`).join("");
    const header = ["Method", "Baseline", "Top-1", "Change, points", "printed", "FLOPs", "pruned", "printed", "Remark"].map((title, index) => `<th class="${index && index < 8 ? "number" : ""}"><button type="button" disabled>${title}</button></th>`).join("");
    return `<div class="card"><details><summary><b>${counted(alone.length, "published point")} without a comparable run</b></summary><div class="scroll published" style="margin-top:10px"><table><thead><tr>${header}</tr></thead><tbody>${lines}</tbody></table></div></details></div>`;
  }

  listen() {
    const find = (selector) => this.element.querySelector(selector);
    const { filters } = this;
    find("input[type=search]").addEventListener("input", (event) => { filters.search = event.target.value; this.changed(); });
    find(".front").addEventListener("change", (event) => { filters.front = event.target.value; this.changed(); });
    for (const select of this.element.querySelectorAll("select[data-column]")) {
      select.addEventListener("change", () => {
        const column = Number(select.dataset.column);
        if (select.selectedIndex) filters.chosen.set(column, select.value); else filters.chosen.delete(column);
        this.changed();
      });
    }
    find(".methods").addEventListener("click", (event) => this.toggle(event.target.closest("button")));
    find(".batch").addEventListener("change", () => this.drawSeen());
    find(".target")?.addEventListener("change", () => this.drawSeen());
    find(".figure-name")?.addEventListener("change", () => this.drawSeen());
  }

  // The first click on a method shows only this method; further clicks add and remove methods.
  toggle(button) {
    if (!button) return;
    const { hidden, methods } = this.filters;
    const method = button.dataset.method;
    if (method === undefined) hidden.clear();
    else if (!hidden.size) methods.filter((each) => each !== method).forEach((each) => hidden.add(each));
    else if (!hidden.delete(method)) hidden.add(method);
    for (const each of this.element.querySelectorAll(".methods [data-method]")) each.setAttribute("aria-pressed", String(!hidden.has(each.dataset.method)));
    this.changed();
  }

  changed() {
    this.grid.draw(this.filters.rows());
    this.drawSeen();
    this.say();
  }

  say() {
    this.element.querySelector(".shown").textContent = `${this.filters.rows().length} of ${this.table.rows.length} rows shown`;
  }

  addFigures() {
    const value = (selector) => this.element.querySelector(selector)?.value;
    const make = {
      flops: (rows) => accuracyAgainst(this, rows, "flops"),
      params: (rows) => accuracyAgainst(this, rows, "params"),
      time: (rows) => accuracyAgainst(this, rows, value(".batch")),
      target: (rows) => accuracyOnTarget(this, rows, this.table.targets[Number(value(".target"))]),
      widths: (rows) => widthsKept(this, rows),
      searches: (rows) => searches(this, rows),
      curves: (rows) => learningCurves(this, rows, value(".figure-name")),
    };
    for (const element of this.element.querySelectorAll("[data-figure]")) {
      this.figures.push({ element, make: make[element.dataset.figure], seen: false });
    }
    this.say();
  }

  // A figure is drawn when it scrolls into view.
  watch() {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries.filter((each) => each.isIntersecting)) {
        observer.unobserve(entry.target);
        const figure = this.figures.find((each) => each.element === entry.target);
        figure.seen = true;
        this.draw(figure);
      }
    }, { rootMargin: "200px" });
    for (const { element } of this.figures) observer.observe(element);
  }

  drawSeen() {
    for (const figure of this.figures.filter((each) => each.seen)) this.draw(figure);
  }

  draw({ element, make }) {
    const [traces, figureLayout] = make(this.filters.rows());
    Plotly.react(element, traces, figureLayout, { displaylogo: false, displayModeBar: matchMedia("(hover: none)").matches ? false : "hover", responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
    element.dataset.drawn = "true";
    performance.mark(`drawn ${element.dataset.figure}`);
  }
}
