// The same pack from above on a 2D canvas, for browsers without WebGL.

import { along } from "./layout.js";

const ARROWS_APART = 3.4, EDGE = 1, ARROW = "#ffffff", RIM = "#17212b";

export function createFlat(canvas) { return new Flat(canvas); }

class Flat {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.chosen = null;
    this.arrows = [];
  }

  setLayout(layout) { this.layout = layout; }
  setColours(colours) { this.colours = colours; }
  setTheme(theme) { this.theme = theme; }
  highlight(cell) { this.chosen = cell; }

  setFlow(direction, offset) {
    this.direction = direction;
    this.arrows = direction ? along(this.layout.path, offset, ARROWS_APART) : [];
  }

  resize(width, height) {
    const pixels = devicePixelRatio;
    Object.assign(this.canvas, { width: Math.round(width * pixels), height: Math.round(height * pixels) });
  }

  // Pixels per unit of the layout, so that all of it is seen.
  get scale() {
    const reach = Math.abs(this.layout.path[0].x) + EDGE;
    return Math.min(this.canvas.width / (2 * reach), this.canvas.height / (this.layout.depth + 2 * EDGE));
  }

  draw() {
    const { pen, canvas, layout, theme } = this, scale = this.scale, { body } = layout;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.setTransform(scale, 0, 0, scale, canvas.width / 2, canvas.height / 2);
    pen.fillStyle = theme.tray;
    for (const { x, z, width, depth } of layout.modules) pen.fillRect(x - width / 2, z - depth / 2, width, depth);
    for (const { x, z, cell } of layout.bodies) {
      pen.fillStyle = `rgb(${this.colours[cell].join(", ")})`;
      pen.fillRect(x - body.width / 2, z - body.depth / 2, body.width, body.depth);
    }
    this.drawArrows();
    if (this.chosen !== null) this.drawChosen();
  }

  drawArrows() {
    const { pen } = this;
    pen.fillStyle = ARROW;
    pen.strokeStyle = RIM;
    pen.lineWidth = 0.2;
    for (const { x, z, angle } of this.arrows) {
      pen.save();
      pen.translate(x, z);
      pen.rotate(angle + (this.direction < 0 ? Math.PI : 0));
      pen.beginPath();
      pen.moveTo(0.9, 0);
      pen.lineTo(-0.7, -0.55);
      pen.lineTo(-0.7, 0.55);
      pen.closePath();
      pen.fill();
      pen.stroke();
      pen.restore();
    }
  }

  drawChosen() {
    const { pen, layout, theme } = this, { x, z, module } = layout.cells[this.chosen], { depth } = layout.modules[module];
    const width = layout.body.width + 0.3;
    for (const [colour, line] of [[theme.back, 0.5], [theme.text, 0.28]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = line;
      pen.strokeRect(x - width / 2, z - depth / 2 + 0.2, width, depth - 0.4);
    }
  }

  pick(x, y) {
    const { canvas, layout } = this, scale = this.scale, { body } = layout;
    const [at, down] = [(x - 0.5) * canvas.width / scale, (y - 0.5) * canvas.height / scale];
    const hit = layout.bodies.find((b) => Math.abs(b.x - at) <= body.width / 2 && Math.abs(b.z - down) <= body.depth / 2);
    return hit ? hit.cell : null;
  }

  where(cell) { return 0.5 + (this.layout.cells[cell].x * this.scale) / this.canvas.width; }

  turn() {}
  nearer() {}
  reset() {}
  dispose() {}
}
