// Where the cells of a pack are drawn: modules of a dozen cells, in rows, seen from above in units of one cell's pitch.
// What a device says of its pack is cells in series and in parallel; the real arrangement may be another one.

const PITCH = 1, CELL = 0.84, DEPTH = 4.4, RIM = 0.5, GAP = 1.1, MODULE_CELLS = 12, MAX_BODIES = 3000;
export const HEIGHT = 2.6; // of a cell

// Cells of a module: the even part of the series nearest to a dozen; without one, a dozen and a shorter last module.
export function cellsPerModule(series) {
  if (series <= MODULE_CELLS + 4) return Math.max(1, series);
  for (const size of [12, 13, 11, 14, 10, 15, 16, 9, 8]) if (series % size === 0) return size;
  return MODULE_CELLS;
}

// Columns of modules that make the pack about as wide as a screen is.
function columnsOf(count, width, depth) {
  const off = (columns) => Math.abs(Math.log((columns * width) / (Math.ceil(count / columns) * depth) / 1.5));
  let best = 1;
  for (let columns = 2; columns <= count; columns += 1) if (off(columns) < off(best)) best = columns;
  return best;
}

// {cells: [{x, z, module}], bodies: [{x, z, cell}], body: {width, depth}, modules: [{x, z, width, depth}], rows, columns,
// perModule, width, depth, path: [{x, z}]}; x and z are middles, the pack's own middle is 0, 0.
export function layOut(series, parallel) {
  const perModule = cellsPerModule(series), count = Math.ceil(series / perModule);
  const width = perModule * PITCH + 2 * RIM, depth = DEPTH + 2 * RIM;
  const columns = columnsOf(count, width + GAP, depth + GAP), rows = Math.ceil(count / columns);
  const total = { width: columns * (width + GAP) - GAP, depth: rows * (depth + GAP) - GAP };
  const modules = Array.from({ length: count }, (_, i) => ({
    x: (i % columns) * (width + GAP) + width / 2 - total.width / 2,
    z: Math.floor(i / columns) * (depth + GAP) + depth / 2 - total.depth / 2,
    width, depth,
  }));
  const cells = Array.from({ length: series }, (_, i) => {
    const module = Math.floor(i / perModule), { x, z } = modules[module];
    return { x: x + ((i % perModule) - (perModule - 1) / 2) * PITCH, z, module };
  });
  const strands = parallel > 1 && parallel <= 6 && series * parallel <= MAX_BODIES ? parallel : 1;
  const bodies = cells.flatMap(({ x, z }, cell) => Array.from({ length: strands }, (_, k) => (
    { x, z: z + (k - (strands - 1) / 2) * (DEPTH / strands), cell })));
  const body = { width: CELL, depth: (DEPTH / strands) * (strands > 1 ? 0.9 : 1) };
  return { cells, bodies, body, modules, rows, columns, perModule, ...total, path: way(modules, columns, total) };
}

// The way of the current: in at the front left, row by row, each row the other way round.
function way(modules, columns, { width }) {
  const rows = [];
  for (let i = 0; i < modules.length; i += columns) rows.push(modules.slice(i, i + columns));
  rows.reverse(); // the last row is in front
  const points = [];
  rows.forEach((row, i) => {
    const ends = [row[0], row.at(-1)].map((module, right) => ({ x: module.x + (right ? 0.42 : -0.42) * module.width, z: module.z }));
    points.push(...(i % 2 ? ends.reverse() : ends));
  });
  return [{ x: -width / 2 - 3.2, z: points[0].z }, ...points];
}

// The cell that an arrow key leads to from another one.
export function neighbour(layout, cell, key) {
  const last = layout.cells.length - 1, row = layout.perModule * layout.columns;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[key];
  const next = cell + step;
  return next < 0 || next > last ? (Math.abs(step) === 1 ? Math.min(Math.max(next, 0), last) : cell) : next;
}

// Points at even distances along a way, each with the direction there: [{x, z, angle, part}], part from 0 to 1.
export function along(path, offset, spacing) {
  const found = [], legs = path.slice(1).map((b, i) => ({ a: path[i], b, length: Math.hypot(b.x - path[i].x, b.z - path[i].z) }));
  const total = legs.reduce((sum, leg) => sum + leg.length, 0);
  let start = 0;
  let at = ((offset % spacing) + spacing) % spacing;
  for (const { a, b, length } of legs) {
    for (; at < start + length; at += spacing) {
      const part = (at - start) / length;
      found.push({ x: a.x + (b.x - a.x) * part, z: a.z + (b.z - a.z) * part, angle: Math.atan2(b.z - a.z, b.x - a.x), part: at / total });
    }
    start += length;
  }
  return found;
}
