// A radiograph on a canvas, with heatmap, arrow and marks as layers over it.

import { readLevels, suited, colors, colored } from "./levels.js";
import { drawArrow, drawCross, drawMark } from "./marks.js";
import { reach } from "./node.js";
import { fitted, matrix, onCanvas, onPicture, panned, seen, turned, zoomed } from "./view.js";

const OPACITY = 0.4; // that of the captures
const PATIENCE_MS = 150; // a window that is dragged on is not asked for
const SHARPEST = 2; // canvas pixels a pixel of the page, at most

export class Pane {
  #context;
  #tile = document.createElement("canvas");
  #isDue = false;
  #isFitted = true;
  #asked = new AbortController();
  #timer;

  /**
   * @param {HTMLCanvasElement} canvas Drawn on.
   * @param {string} id Of the instance.
   */
  constructor(canvas, id) {
    this.canvas = canvas;
    this.id = id;
    this.levels = null;
    this.view = null;
    this.shown = null; // the window of the picture that was read
    this.wanted = null; // the one it is seen through
    this.first = null; // the one that the model saw
    this.isTrue = true; // whether the picture that was read shows the one it is seen through
    this.isInverted = false;
    this.layers = { heatmap: false, arrow: true, opacity: OPACITY };
    this.heatmap = null;
    this.drawing = null;
    this.isDashed = false;
    this.marks = [];
    this.isAiming = false;
    this.onview = () => {};
    this.#context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** Canvas pixels a pixel of the page. */
  get sharpness() {
    return Math.min(devicePixelRatio, SHARPEST);
  }

  get middle() {
    return [this.canvas.width / 2, this.canvas.height / 2];
  }

  get picture() {
    return this.levels[0];
  }

  /** Read the radiograph through the window that the model saw. */
  async load() {
    await this.#read("", new AbortController().signal);
    this.first = this.wanted = this.shown;
    this.fit();
  }

  /** Lay heatmap and arrow over it. */
  async layOver({ drawing, operating_point: point }) {
    this.drawing = drawing;
    this.isDashed = point === "doubtful";
    this.heatmap = null;
    if (drawing) {
      const response = await reach(`/instances/${this.id}/heatmap`);
      this.heatmap = await createImageBitmap(await response.blob());
    }
    // The map of a negative answer glows somewhere, too, and would be read as a finding.
    this.layers.heatmap = drawing !== null && point !== "none";
    this.redraw();
  }

  async #read(query, signal) {
    const response = await reach(`/instances/${this.id}/picture${query}`, { signal });
    const levels = await readLevels(await response.blob());
    if (signal.aborted) return;
    this.levels = levels;
    this.isTrue = true;
    const value = (name) => Number(response.headers.get(name));
    this.shown = { black: value("Gray-Black"), white: value("Gray-White") };
  }

  /**
   * Look through another window: at once through the one that is there, and then through the true one.
   * @param {{black: number, white: number}} wanted The values that shall be black and white.
   */
  look(wanted) {
    this.wanted = wanted;
    this.isTrue = false;
    this.redraw();
    this.#asked.abort();
    clearTimeout(this.#timer);
    this.#asked = new AbortController();
    const { signal } = this.#asked;
    this.#timer = setTimeout(() => this.#lookTruly(wanted, signal), PATIENCE_MS);
  }

  async #lookTruly(wanted, signal) {
    const [low, high] = [wanted.black, wanted.white].sort((a, b) => a - b);
    try {
      await this.#read(wanted === this.first ? "" : `?low=${low}&high=${high}`, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.onview(error);
    }
    if (!signal.aborted) this.redraw();
  }

  /** Widen the window by a factor, and move it by a share of its width. */
  window(factor, share) {
    if (!this.wanted) return;
    const width = (this.wanted.white - this.wanted.black) * factor;
    const center = (this.wanted.white + this.wanted.black) / 2 + share * width;
    this.look({ black: center - width / 2, white: center + width / 2 });
  }

  reset() {
    if (!this.levels) return;
    this.isInverted = false;
    this.view = fitted(this.picture, this.canvas);
    this.#isFitted = true;
    this.look(this.first);
  }

  fit() {
    if (!this.levels) return;
    this.view = fitted(this.picture, this.canvas, this.view?.turn);
    this.#isFitted = true;
    this.redraw();
  }

  /** One pixel of the picture on one of the screen. */
  full(at = this.middle) {
    this.zoom(1 / (this.view?.scale ?? 1), at);
  }

  zoom(factor, at = this.middle) {
    this.#move((view) => zoomed(view, factor, at));
  }

  pan(dx, dy) {
    this.#move((view) => panned(view, dx, dy));
  }

  turn() {
    const wasFitted = this.#isFitted;
    this.#move((view) => turned(view, this.canvas));
    if (wasFitted) this.fit();
  }

  invert() {
    this.isInverted = !this.isInverted;
    this.redraw();
  }

  /** Switch a layer, "heatmap" or "arrow", or set the heatmap's "opacity". */
  lay(name, value = !this.layers[name]) {
    this.layers[name] = value;
    this.redraw();
  }

  /** Show where the middle is, to be marked by key. */
  aim(isAiming) {
    this.isAiming = isAiming;
    this.redraw();
  }

  /** Which point of the picture lies there on the canvas; null beside it. */
  at(point) {
    if (!this.levels) return null;
    const [column, row] = onPicture(this.view, this.picture, point);
    const isInside = column >= 0 && row >= 0 && column <= this.picture.width && row <= this.picture.height;
    return isInside ? [column, row] : null;
  }

  #move(change) {
    if (!this.levels) return;
    this.view = change(this.view);
    this.#isFitted = false;
    this.redraw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || !clientHeight) return;
    this.canvas.width = Math.round(clientWidth * this.sharpness);
    this.canvas.height = Math.round(clientHeight * this.sharpness);
    if (this.#isFitted) this.fit();
    this.#draw(); // at once: a canvas whose size changed is empty
  }

  /** Draw with the next frame, once however much changes before. */
  redraw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#draw();
      this.onview();
    });
  }

  #draw() {
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.levels) return;
    context.imageSmoothingQuality = "medium";
    context.setTransform(...matrix(this.view, this.picture));
    this.#drawGray(context);
    if (this.heatmap && this.layers.heatmap) {
      context.globalAlpha = this.layers.opacity;
      context.drawImage(this.heatmap, 0, 0, this.picture.width, this.picture.height);
      context.globalAlpha = 1;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    const place = (point) => onCanvas(this.view, this.picture, point);
    if (this.drawing?.tip && this.layers.arrow) {
      drawArrow(context, place(this.drawing.tip), place(this.drawing.tail), this.isDashed, this.sharpness);
    }
    for (const mark of this.marks) drawMark(context, place(mark), this.sharpness);
    if (this.isAiming) drawCross(context, this.middle, this.sharpness);
  }

  #drawGray(context) {
    const level = suited(this.levels, this.view.scale);
    const [across, down] = [this.picture.width / level.width, this.picture.height / level.height];
    const part = seen(this.view, this.picture, this.canvas);
    const left = Math.floor(part.left / across);
    const top = Math.floor(part.top / down);
    const width = Math.min(Math.ceil((part.left + part.width) / across), level.width) - left;
    const height = Math.min(Math.ceil((part.top + part.height) / down), level.height) - top;
    if (width <= 0 || height <= 0) return;
    const table = colors(this.shown, this.wanted ?? this.shown, this.isInverted);
    Object.assign(this.#tile, { width, height });
    this.#tile.getContext("2d").putImageData(colored(level, { left, top, width, height }, table), 0, 0);
    context.drawImage(this.#tile, left * across, top * down, width * across, height * down);
  }
}
