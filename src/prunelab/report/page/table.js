// The table: a header that sorts, the baseline, and rows that open to show the stages of their runs and the commands that repeat them.

class Grid {
  constructor(section, element) {
    this.section = section;
    this.element = element;
    this.open = new Set();
    element.innerHTML = `<table><thead><tr>${section.table.columns.map((each, index) => this.header(each, index)).join("")}</tr></thead><tbody></tbody></table>`;
    this.body = element.querySelector("tbody");
    element.querySelector("thead").addEventListener("click", (event) => this.sortBy(event.target.closest("button")));
    this.body.addEventListener("click", (event) => this.clicked(event.target));
  }

  header(column, index) {
    const lines = column.header.map(escaped).join("<br>");
    return `<th scope="col" class="${column.numeric ? "number" : ""}"><button type="button" data-column="${index}">${lines}</button></th>`;
  }

  // Numbers from the largest, names from A to Z; a second click reverses the order, a third restores the original one.
  sortBy(button) {
    if (!button) return;
    const { filters, table } = this.section;
    const column = Number(button.dataset.column);
    const first = Boolean(table.columns[column].numeric);
    const before = filters.sort && filters.sort.column === column ? filters.sort.descending : null;
    filters.sort = before === null ? { column, descending: first } : before === first ? { column, descending: !first } : null;
    for (const th of this.element.querySelectorAll("th")) th.removeAttribute("aria-sort");
    if (filters.sort) button.parentElement.setAttribute("aria-sort", filters.sort.descending ? "descending" : "ascending");
    this.section.changed();
  }

  draw(rows) {
    const { table } = this.section;
    const baseline = table.baselineCells.map((cell, index) => this.cell(cell, index, escaped(cell))).join("");
    const lines = rows.map((row) => this.line(row)).join("");
    this.body.innerHTML = `<tr class="baseline">${baseline}</tr>${lines}`;
    if (!rows.length) this.body.insertAdjacentHTML("beforeend", `<tr><td class="empty" colspan="${table.columns.length}">No row matches the filters.</td></tr>`);
  }

  line(row) {
    const { table } = this.section;
    const id = table.rows.indexOf(row);
    const opened = this.open.has(id);
    const cells = row.cells.map((cell, index) => this.cell(cell, index, this.content(row, cell, index, id, opened))).join("");
    const detail = opened ? `<tr><td class="detail" colspan="${table.columns.length}"><div>${this.detail(row)}</div></td></tr>` : "";
    return `<tr class="row" data-method="${escaped(row.method)}">${cells}</tr>${detail}`;
  }

  cell(text, index, content) {
    const column = this.section.table.columns[index];
    const long = !column.numeric && text.length > 40 ? " long" : "";
    return `<td class="${column.numeric ? "number" : ""}${long}">${content}</td>`;
  }

  content(row, cell, index, id, opened) {
    const { table, colours } = this.section;
    if (index === 0) {
      return `<button type="button" class="open" data-row="${id}" aria-expanded="${opened}" title="Show the stages of this row, and the commands that repeat it"><i style="background:${colours.get(row.method)}"></i>${escaped(cell)}</button>`;
    }
    if (index === table.frontColumn) return cell.split(" ").filter(Boolean).map((letter) => `<span class="badge">${escaped(letter)}</span>`).join("");
    return escaped(cell);
  }

  detail(row) {
    const runs = row.runs.map((run) => `
      <p><b>Seed ${run.seed}</b>: ${percent(run.top1)} top-1 <span class="faint">· run ${escaped(run.key)} · revision ${escaped(run.revision)} · ${escaped(run.finished)}</span></p>
      <div class="command"><code>${escaped(run.command)}</code><button type="button" class="plain copy">Copy</button></div>${this.stages(run.stages)}`).join("");
    return `<h3>${escaped(row.label)}</h3>${runs}
      <p class="faint">Add KEY=VALUE to change a setting, such as data.root=FOLDER. ${escaped(row.versions)}. ${escaped(row.hardware)}.</p>
      <details><summary>All settings${row.runs.length > 1 ? ` (of seed ${row.runs[0].seed})` : ""}</summary><pre>${escaped(row.settings)}</pre></details>`;
  }

  // What each stage of a run left: accuracy, cost, size and time.
  stages(found) {
    if (!found) return "";
    const line = (cells, tag) => `<tr>${cells.map((cell, place) => `<${tag} class="${place ? "number" : ""}">${escaped(cell)}</${tag}>`).join("")}</tr>`;
    return `<table class="stages"><thead>${line(found.headings, "th")}</thead><tbody>${found.rows.map((row) => line(row, "td")).join("")}</tbody></table>`;
  }

  clicked(target) {
    const copy = target.closest(".copy");
    if (copy) {
      const text = copy.previousElementSibling.textContent;
      navigator.clipboard?.writeText(text).then(() => { copy.textContent = "Copied"; }, () => { copy.textContent = "Not allowed"; });
    }
    const opener = target.closest(".open");
    if (!opener) return;
    const id = Number(opener.dataset.row);
    if (!this.open.delete(id)) this.open.add(id);
    this.draw(this.section.filters.rows());
    this.body.querySelector(`.open[data-row="${id}"]`).focus();
  }
}
