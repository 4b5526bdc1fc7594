// Builds the page from its content: first the tables, then the figures, when the plotting library after this script is loaded.

const content = JSON.parse(document.getElementById("content").textContent);
const sections = [];

function listed(lines) {
  return `<ul class="notes">${lines.map((line) => `<li>${escaped(line)}</li>`).join("")}</ul>`;
}

function checked(items) {
  return `<ul class="check">${items.map((item) => `<li class="${item.met ? "met" : "unmet"}">${escaped(item.demand)} <span class="faint">${item.met ? "" : "(not met) "}${escaped(item.finding)}</span></li>`).join("")}</ul>`;
}

function build() {
  const page = document.getElementById("page");
  const troubles = [...content.unfinished, ...content.leftOut];
  page.innerHTML = `<header><h1>${escaped(content.study)}</h1><p class="faint">Comparison of pruning methods from the records of a study, made by prunelab-report.</p></header>
    ${troubles.length ? `<div class="card troubles"><details ${troubles.length < 6 ? "open" : ""}><summary><b class="warn">${troubles.length} ${troubles.length === 1 ? "file or run is" : "files or runs are"} not in the tables</b></summary>${listed(troubles)}</details></div>` : ""}
    <div id="sections"></div>
    ${content.caption ? `<footer class="card"><h3>Definitions</h3><p class="faint">${escaped(content.caption)}</p></footer>` : ""}`;
  for (const table of content.tables) {
    const element = document.createElement("section");
    document.getElementById("sections").append(element);
    if (table.rows.length) sections.push(new Section(table, element));
    else element.innerHTML = `<h2>${escaped(table.title)}</h2><div class="card">${listed(table.failures)}</div>`;
  }
  performance.mark("table");
}

function drawFigures() {
  for (const section of sections) section.watch();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => sections.forEach((section) => section.drawSeen()));
}

build();
