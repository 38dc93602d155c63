// The camera that goes around the pack: turned and zoomed by hand, and so near that the pack fills the picture.

const HOME = { around: -0.42, above: 0.88, zoom: 1 };
const LOWEST = 0.15, STEEPEST = Math.PI / 2 - 0.02, NEAREST = 0.35, FARTHEST = 1.6;
const FILLED = 0.94; // of the picture
const between = (low, value, high) => Math.min(Math.max(value, low), high);

export class Orbit {
  constructor(three) {
    this.camera = new three.PerspectiveCamera(30, 1);
    this.corner = new three.Vector3();
    this.size = { left: -1, right: 1, depth: 1, height: 1 };
    this.reset();
  }

  reset() { Object.assign(this, HOME); }

  turn(around, above) {
    this.around += around;
    this.above = between(LOWEST, this.above + above, STEEPEST);
  }

  nearer(factor) { this.zoom = between(NEAREST, this.zoom / factor, FARTHEST); }

  // Put the camera where its angles say, for a picture with this width by height.
  place(aspect) {
    const { left, right, depth, height } = this.size, reach = Math.hypot(right - left, depth, height);
    this.camera.aspect = aspect;
    let [near, far] = [reach * 0.6, reach * 8];
    for (let i = 0; i < 14; i += 1) { // the least distance from which the pack is not larger than the picture
      const middle = (near + far) / 2, seen = this.seen(middle);
      if (Math.max(seen.width, seen.height) <= 2 * FILLED) far = middle;
      else near = middle;
    }
    const seen = this.seen(far * this.zoom), { projectionMatrix, projectionMatrixInverse } = this.camera;
    projectionMatrix.elements[8] += seen.x; // perspective makes the front larger: the middle of what is seen is elsewhere
    projectionMatrix.elements[9] += seen.y;
    projectionMatrixInverse.copy(projectionMatrix).invert();
  }

  // Look from that distance; where the pack is in the picture, which goes from -1 to 1.
  seen(distance) {
    const { camera, around, above, corner, size } = this, flat = Math.cos(above) * distance;
    camera.position.set(Math.sin(around) * flat, Math.sin(above) * distance, Math.cos(around) * flat);
    camera.lookAt(0, 0, 0);
    camera.near = distance / 50;
    camera.far = distance * 4;
    camera.updateMatrixWorld();
    camera.updateProjectionMatrix();
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const x of [size.left, size.right]) for (const y of [-0.5, 0.5]) for (const z of [-0.5, 0.5]) {
      corner.set(x, y * size.height, z * size.depth).project(camera);
      [x0, x1, y0, y1] = [Math.min(x0, corner.x), Math.max(x1, corner.x), Math.min(y0, corner.y), Math.max(y1, corner.y)];
    }
    return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, width: x1 - x0, height: y1 - y0 };
  }
}
