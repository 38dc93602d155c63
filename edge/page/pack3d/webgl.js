// The pack in 3D: all cells are one instanced mesh, so a pack of any size is a handful of draw calls.
// No lights: tops have the colours of the legend exactly, sides are darker by what their corners say.

import { vendored } from "../vendored.js";
import { Orbit } from "./camera.js";
import { HEIGHT, along } from "./layout.js";

const SIDES = [0.5, 0.5, 1, 0.4, 0.68, 0.4]; // brightness of +x, -x, top, bottom, front, back
const ARROWS_APART = 3.4, MOST_ARROWS = 400, MOST_PIXELS = 2; // device pixels per pixel: more costs a phone its battery
const ARROW = "#ffffff", RIM = "#17212b"; // to be seen on every colour of cells and on both backgrounds
const RAISED = 1.3; // of the chosen cell
const FLOOR = -HEIGHT / 2 - 0.25;

// Rejects where there is no WebGL; three.js is loaded only where there is.
export async function createWebgl(canvas, { lost }) {
  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) throw new Error("no WebGL");
  probe.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep few contexts
  const three = await vendored("three/build/three.module.min.js", "three/build/three.core.min.js");
  return new Webgl(three, canvas, lost);
}

class Webgl {
  constructor(three, canvas, lost) {
    this.three = three;
    this.canvas = canvas;
    this.renderer = new three.WebGLRenderer({ canvas, antialias: true, alpha: true, powerPreference: "low-power" });
    this.onLost = (event) => { event.preventDefault(); lost(); };
    canvas.addEventListener("webglcontextlost", this.onLost);
    this.scene = new three.Scene();
    this.orbit = new Orbit(three);
    this.ray = new three.Raycaster();
    this.colour = new three.Color();
    this.own = []; // what has to be given back
    this.makeShared();
  }

  keep(thing) {
    this.own.push(thing);
    return thing;
  }

  makeShared() {
    const { three } = this;
    this.box = this.keep(new three.BoxGeometry(1, 1, 1));
    const shades = SIDES.flatMap((shade) => Array(12).fill(shade));
    this.box.setAttribute("color", new three.Float32BufferAttribute(shades, 3));
    this.cellPaint = this.keep(new three.MeshBasicMaterial({ vertexColors: true }));
    this.trayPaint = this.keep(new three.MeshBasicMaterial({ vertexColors: true }));
    this.arrowPaint = this.keep(new three.MeshBasicMaterial({ color: ARROW }));
    this.rimPaint = this.keep(new three.MeshBasicMaterial({ color: RIM, side: three.BackSide })); // a larger one seen from inside is a rim
    this.arrowShape = this.keep(new three.ConeGeometry(0.62, 1.6, 4, 1));
    this.arrowShape.rotateZ(-Math.PI / 2).rotateX(Math.PI / 4).scale(1, 0.4, 1); // a flat dart that points along x
    this.arrows = [this.arrowPaint, this.rimPaint].map((paint) => this.keep(new three.InstancedMesh(this.arrowShape, paint, MOST_ARROWS)));
    for (const mesh of this.arrows) Object.assign(mesh, { frustumCulled: false, count: 0 });
    this.framePaint = this.keep(new three.MeshBasicMaterial({ side: three.BackSide }));
    this.frame = new three.Mesh(this.box, this.framePaint);
    this.frame.visible = false;
    this.scene.add(...this.arrows, this.frame);
  }

  setLayout(layout) {
    this.layout = layout;
    for (const mesh of [this.cells, this.trays]) if (mesh) { this.scene.remove(mesh); mesh.dispose(); }
    const { body } = layout;
    this.raised = null;
    this.cells = this.instances(this.cellPaint, layout.bodies, ({ x, z }) => [x, 0, z, body.width, HEIGHT, body.depth]);
    this.trays = this.instances(this.trayPaint, layout.modules, ({ x, z, width, depth }) => [x, FLOOR, z, width, 0.5, depth]);
    const { width, depth } = layout;
    this.orbit.size = { left: layout.path[0].x, right: width / 2, depth, height: HEIGHT + 1 };
  }

  instances(paint, things, place) {
    const { three } = this, mesh = new three.InstancedMesh(this.box, paint, things.length), matrix = new three.Matrix4();
    things.forEach((thing, i) => {
      const [x, y, z, width, height, depth] = place(thing);
      mesh.setMatrixAt(i, matrix.makeScale(width, height, depth).setPosition(x, y, z));
    });
    mesh.computeBoundingSphere();
    this.scene.add(mesh);
    return mesh;
  }

  // [r, g, b] from 0 to 255 by cell.
  setColours(colours) {
    this.layout.bodies.forEach(({ cell }, i) => {
      const [r, g, b] = colours[cell];
      this.cells.setColorAt(i, this.colour.setRGB(r / 255, g / 255, b / 255, this.three.SRGBColorSpace));
    });
    this.cells.instanceColor.needsUpdate = true;
  }

  setTheme({ text, tray }) {
    this.framePaint.color.set(text);
    this.trayPaint.color.set(tray);
  }

  // A chosen cell stands out of its module, with a rim.
  highlight(cell) {
    if (cell === this.raised) return;
    if (this.raised !== null) this.raise(this.raised, 0);
    this.raised = cell;
    this.frame.visible = cell !== null;
    if (cell === null) return;
    this.raise(cell, RAISED);
    const { x, z, module } = this.layout.cells[cell];
    this.frame.position.set(x, RAISED, z);
    this.frame.scale.set(this.layout.body.width + 0.4, HEIGHT + 0.4, this.layout.modules[module].depth - 0.4);
  }

  raise(cell, height) {
    const matrix = new this.three.Matrix4();
    this.layout.bodies.forEach((body, i) => {
      if (body.cell !== cell) return;
      this.cells.getMatrixAt(i, matrix);
      matrix.elements[13] = height;
      this.cells.setMatrixAt(i, matrix);
    });
    this.cells.instanceMatrix.needsUpdate = true;
  }

  // Arrows along the current's way, moved on by `offset`; direction 1 is into the pack, -1 out of it, 0 is none.
  setFlow(direction, offset) {
    const { three, arrows } = this, matrix = new three.Matrix4(), turn = new three.Quaternion(), up = new three.Vector3(0, 1, 0);
    const [at, large] = [new three.Vector3(), new three.Vector3()];
    const found = direction ? along(this.layout.path, offset, ARROWS_APART).slice(0, MOST_ARROWS) : [];
    found.forEach(({ x, z, angle, part }, i) => {
      const size = 1 - 0.5 * part; // the current spreads
      turn.setFromAxisAngle(up, -angle + (direction < 0 ? Math.PI : 0));
      arrows.forEach((mesh, rim) => {
        at.set(x, HEIGHT / 2 + 0.7, z);
        mesh.setMatrixAt(i, matrix.compose(at, turn, large.setScalar(size * (rim ? 1.35 : 1))));
      });
    });
    for (const mesh of arrows) {
      mesh.count = found.length;
      mesh.instanceMatrix.needsUpdate = true;
    }
  }

  resize(width, height) {
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, MOST_PIXELS));
    this.renderer.setSize(width, height, false);
    this.aspect = width / height;
  }

  draw() {
    this.orbit.place(this.aspect);
    this.renderer.render(this.scene, this.orbit.camera);
  }

  // The cell at a point of the canvas, from 0 to 1 in both directions; null where there is none.
  pick(x, y) {
    this.ray.setFromCamera({ x: x * 2 - 1, y: 1 - y * 2 }, this.orbit.camera);
    const [hit] = this.ray.intersectObject(this.cells);
    return hit ? this.layout.bodies[hit.instanceId].cell : null;
  }

  // How far to the right a cell is, in the same measure.
  where(cell) {
    const { x, z } = this.layout.cells[cell];
    return (new this.three.Vector3(x, 0, z).project(this.orbit.camera).x + 1) / 2;
  }

  turn(around, above) { this.orbit.turn(around, above); }
  nearer(factor) { this.orbit.nearer(factor); }
  reset() { this.orbit.reset(); }

  dispose() {
    this.canvas.removeEventListener("webglcontextlost", this.onLost);
    for (const mesh of [this.cells, this.trays]) mesh?.dispose();
    for (const thing of this.own) thing.dispose();
    this.renderer.dispose();
    if (!this.renderer.getContext().isContextLost()) this.renderer.forceContextLoss();
  }
}
