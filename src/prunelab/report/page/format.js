"use strict";
// Formatting of text. All text from records must pass through `escaped` before it becomes markup.

const PALETTE = ["#4269d0", "#e8a30c", "#ff725c", "#3ca951", "#a463f2", "#17a2b8", "#ff8ab7", "#9c6b4e", "#7f8794", "#86b4f5"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star", "hexagon"];
const COSTS = {
  flops: "FLOPs",
  params: "Parameters",
  forward_ms_batch_64: "Milliseconds for a batch of 64",
  forward_ms_batch_1: "Milliseconds for a batch of 1",
};

function escaped(text) {
  return String(text).replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`);
}

function percent(fraction, digits = 2) {
  return `${(100 * fraction).toFixed(digits)} %`;
}

function points(fraction) {
  return (fraction < 0 ? "" : "+") + (100 * fraction).toFixed(2);
}

function count(value) {
  const unit = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => value >= size);
  return unit ? `${(value / unit[0]).toFixed(2)} ${unit[1]}` : value.toFixed(0);
}

function counted(number, what) {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

// The number at the beginning of a cell, by which its column is sorted; NaN if there is none.
function leading(cell) {
  return parseFloat(cell);
}
