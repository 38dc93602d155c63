// Scales of colour that people with any kind of colour vision can read: their lightness rises all the way from low to high.
// Viridis and plasma, by S. van der Walt and N. Smith (CC0), as nine of their 256 colours each.

const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"];
const PLASMA = ["0d0887", "4c02a1", "7e03a8", "aa2395", "cc4778", "e66c5c", "f89540", "fdc527", "f0f921"];
const STOPS = { voltage: VIRIDIS, charge: VIRIDIS, temperature: PLASMA };
export const UNKNOWN = [136, 136, 136]; // grey is in neither scale

const channels = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

// [r, g, b] from 0 to 255 of a value on the scale [from, to].
export function colourOf(by, value, [from, to]) {
  if (value === null) return UNKNOWN;
  const stops = STOPS[by], at = Math.min(Math.max((value - from) / (to - from || 1), 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(at), stops.length - 2), [a, b] = [channels(stops[i]), channels(stops[i + 1])];
  return a.map((channel, k) => Math.round(channel + (b[k] - channel) * (at - i)));
}

// The scale as a CSS image, from left to right.
export const gradient = (by) => `linear-gradient(to right, ${STOPS[by].map((hex) => css(channels(hex))).join(", ")})`;
