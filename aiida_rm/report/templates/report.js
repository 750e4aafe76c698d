"use strict";
const payload = JSON.parse(document.getElementById("payload").textContent);
const root = document.documentElement;
const colours = ["#4c78d0", "#e07b39", "#3a9d5d", "#c44e8a", "#8a6fd1", "#a88b2c", "#4aa5b5"];
const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
const all = (selector) => [...document.querySelectorAll(selector)];

function look() {
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), automargin: true };
  return { font: { color: colour("--text"), size: 12 }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", colorway: colours, margin: { l: 55, r: 10, t: 10, b: 45 },
    legend: { orientation: "h", x: 0, yanchor: "bottom", y: 1.02 }, hoverlabel: { font: { size: 12 } }, axis };
}

function drawCharts() {
  for (const place of all("[data-chart]")) {
    const chart = payload.charts[place.dataset.chart];
    const { axis, ...base } = look();
    const layout = { ...base, ...chart.layout, xaxis: { ...axis, ...chart.layout.xaxis },
      yaxis: { ...axis, ...chart.layout.yaxis } };
    for (const trace of chart.data) {
      if (trace.meta !== undefined) trace.marker.color = colours[trace.meta % colours.length];
    }
    Plotly.react(place, chart.data, layout, { responsive: true, displaylogo: false });
    if (!place.dataset.ready) {
      place.dataset.ready = "1";
      place.on("plotly_click", (event) => {
        const key = event.points[0].customdata;
        if (key !== undefined && key !== null) choose(key, true);
      });
      place.on("plotly_hover", (event) => peek(place, event.points[0].customdata));
      place.on("plotly_unhover", () => peek(place, null));
    }
  }
}

/* The picture of the structure under the pointer, where it is one of those below. */
function peek(place, key) {
  const image = place.parentElement.querySelector(".peek");
  const card = key === undefined || key === null ? null : all(".card img")[key];
  image.hidden = !card;
  if (card) image.src = card.src;
}

let chosen = 0;
let turning = 0;
let camera = { up: { x: 0, y: 0, z: 1 }, eye: { x: 1.5, y: 0.9, z: 0.7 } };

function drawScene() {
  const place = document.getElementById("scene");
  const scene = payload.scenes[chosen];
  if (!place || !scene) return;
  const { atoms, bonds, cell } = scene;
  // The whole of it fits, however it is turned; balls are of one scale with distances.
  const boxed = ["x", "y", "z"].map((axis, k) => {
    const values = [...atoms[axis], ...cell.flat().map((point) => point[k])];
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return { middle: (low + high) / 2, half: (high - low) / 2 + 0.5 };
  });
  const reach = Math.hypot(...boxed.map((axis) => axis.half));
  const narrow = Math.min(place.clientWidth, place.clientHeight) || 300;
  const [gridX, gridY, gridZ] = boxed.map(({ middle, half }) =>
    ({ visible: false, range: [middle - half, middle + half] }));
  const [spanX, spanY, spanZ] = boxed.map((axis) => (1.45 * axis.half) / reach);
  const sticks = { x: [], y: [], z: [] };
  for (const [i, j] of bonds) for (const axis of "xyz") {
    sticks[axis].push(atoms[axis][i], atoms[axis][j], null);
  }
  const edges = { x: [], y: [], z: [] };
  for (const [a, b] of cell) ["x", "y", "z"].forEach((axis, k) => edges[axis].push(a[k], b[k], null));
  const lines = { type: "scatter3d", mode: "lines", hoverinfo: "skip" };
  const data = [
    { ...lines, ...sticks, line: { color: "#8b949e", width: 7 } },
    { ...lines, ...edges, line: { color: colour("--accent"), width: 2 } },
    { type: "scatter3d", mode: "markers", x: atoms.x, y: atoms.y, z: atoms.z, text: atoms.symbol,
      hovertemplate: "%{text}<extra></extra>", marker: { color: atoms.colour, opacity: 1,
        size: atoms.radius.map((radius) => Math.max(5, (0.4 * narrow * radius) / reach)),
        line: { color: "#30363d", width: 1 } } },
  ];
  const layout = { ...look(), showlegend: false, margin: { l: 0, r: 0, t: 0, b: 0 },
    scene: { xaxis: gridX, yaxis: gridY, zaxis: gridZ, camera, aspectmode: "manual",
      aspectratio: { x: spanX, y: spanY, z: spanZ } } };
  delete layout.axis;
  Plotly.react(place, data, layout, { responsive: true, displaylogo: false });
}

function turn(on) {
  const button = document.getElementById("turn");
  cancelAnimationFrame(turning);
  turning = 0;
  button.setAttribute("aria-pressed", String(on));
  if (!on) return;
  let last = 0;
  const step = (now) => {
    const place = document.getElementById("scene");
    const { top, bottom } = place.getBoundingClientRect();
    if (now - last > 50 && bottom > 0 && top < window.innerHeight) {
      last = now;
      const eye = (place.layout.scene.camera || camera).eye;
      const angle = Math.atan2(eye.y, eye.x) + 0.03;
      const far = Math.hypot(eye.x, eye.y);
      camera = { ...camera, eye: { x: far * Math.cos(angle), y: far * Math.sin(angle), z: eye.z } };
      Plotly.relayout(place, { "scene.camera": camera });
    }
    turning = requestAnimationFrame(step);
  };
  turning = requestAnimationFrame(step);
}

function choose(index, scroll) {
  chosen = index;
  for (const card of all(".card")) {
    const mine = Number(card.dataset.structure) === index;
    card.setAttribute("aria-selected", String(mine));
    if (mine && scroll) card.scrollIntoView({ block: "nearest" });
  }
  for (const one of all("[data-details]")) one.hidden = Number(one.dataset.details) !== index;
  drawScene();
  const pk = shownGraphs[index];
  for (const graph of all("[data-graph]")) graph.hidden = graph.dataset.graph !== pk;
  if (scroll) document.getElementById("viewer").scrollIntoView({ block: "nearest" });
}

function showNode(box) {
  for (const other of all(".graph g")) other.setAttribute("aria-pressed", String(other === box));
  document.getElementById("node").textContent = JSON.parse(box.dataset.lines).join("\n");
}

const shownGraphs = all("[data-details]").map((one) => one.dataset.provenance);
for (const card of all(".card")) {
  card.addEventListener("click", () => choose(Number(card.dataset.structure), false));
  card.addEventListener("keydown", (event) => {
    const cards = all(".card");
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = cards[Math.min(cards.length - 1, Math.max(0, cards.indexOf(card) + step))];
    next.focus();
    choose(Number(next.dataset.structure), false);
  });
}
for (const box of all(".graph g")) {
  box.addEventListener("click", () => showNode(box));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    showNode(box);
  });
}
for (const link of all("[data-text]")) {
  link.href = URL.createObjectURL(new Blob([link.dataset.text], { type: "text/plain" }));
}

const theme = document.getElementById("theme");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
function showTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-pressed", String(isDark()));
  drawCharts();
  drawScene();
}
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
dark.addEventListener("change", showTheme);

showTheme();
if (payload.scenes.length) {
  choose(0, false);
  document.getElementById("turn").addEventListener("click", () => turn(!turning));
  if (!still) turn(true);
}
