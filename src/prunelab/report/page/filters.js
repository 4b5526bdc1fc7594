// Selects and sorts the rows. The figures show the same rows as the table.

class Filters {
  constructor(table) {
    this.table = table;
    this.methods = [...new Set(table.rows.map((row) => row.method))].sort();
    this.hidden = new Set();
    this.search = "";
    this.chosen = new Map(); // index of a column -> the text that its cells must have
    this.front = "";
    this.sort = null; // {column, descending}
  }

  // The columns of names other than the method's that have 2 to 30 different texts.
  choices() {
    return this.table.columns
      .map((column, index) => ({ index, title: column.header.join(" "), texts: this.texts(index) }))
      .filter(({ index, texts }) => index > 0 && !this.table.columns[index].numeric && texts.length > 1 && texts.length <= 30);
  }

  texts(index) {
    return [...new Set(this.table.rows.map((row) => row.cells[index]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }

  rows() {
    const words = this.search.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.table.rows.filter((row) => this.shows(row, words));
    return this.sort ? shown.sort((a, b) => this.compare(a, b)) : shown;
  }

  shows(row, words) {
    if (this.hidden.has(row.method) || (this.front && !row.front.includes(this.front))) return false;
    if ([...this.chosen].some(([index, text]) => row.cells[index] !== text)) return false;
    row.text ??= row.cells.filter((_, index) => !this.table.columns[index].numeric).join(" ").toLowerCase();
    return words.every((word) => row.text.includes(word));
  }

  // Unknown values are last in both orders.
  compare(a, b) {
    const { column, descending } = this.sort;
    const [one, other] = [a.cells[column], b.cells[column]];
    const sign = descending ? -1 : 1;
    if (!this.table.columns[column].numeric || column === this.table.frontColumn) {
      return sign * one.localeCompare(other, "en", { numeric: true });
    }
    const [x, y] = [leading(one), leading(other)];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  }
}
