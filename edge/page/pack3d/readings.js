// What the cells have: values by cell out of what the gateway knows, the lowest and the highest, and their scale.

const known = (value) => typeof value === "number" && Number.isFinite(value);
const LEAST = { voltage: 0.02, temperature: 5 }; // a scale is not narrower: noise is not to look like trouble
const STEP = { voltage: 0.005, temperature: 1 }; // its ends are multiples of this, so that it does not move all the time

// The probe that stands for a cell: fewer probes than cells are spread evenly.
export const probeOf = (cell, probes, series) => Math.min(probes - 1, Math.floor((cell * probes) / series));

// Values by cell of what is shown, null where there is none.
export function valuesOf({ voltages_v = [], temps_c = [], soc_pct = null, by }, series) {
  const of = {
    voltage: (cell) => voltages_v[cell],
    temperature: (cell) => (temps_c.length ? temps_c[probeOf(cell, temps_c.length, series)] : null),
    charge: () => soc_pct,
  }[by];
  return Array.from({ length: series }, (_, cell) => (known(of(cell)) ? of(cell) : null));
}

// {low, high: cell numbers from 0, unknown: how many have no value}; low and high are null where no cell has a value.
export function extremes(values) {
  let low = null, high = null, unknown = 0;
  values.forEach((value, cell) => {
    if (value === null) { unknown += 1; return; }
    if (low === null || value < values[low]) low = cell;
    if (high === null || value > values[high]) high = cell;
  });
  return { low, high, unknown };
}

// The two ends of the scale.
export function scaleOf(by, values) {
  if (by === "charge") return [0, 100];
  const { low, high } = extremes(values), step = STEP[by];
  let [from, to] = low === null ? [0, LEAST[by]] : [values[low], values[high]];
  const missing = Math.max(0, LEAST[by] - (to - from)) / 2;
  from = Math.floor((from - missing) / step + 1e-6) * step;
  to = Math.ceil((to + missing) / step - 1e-6) * step;
  return [from, to];
}
