// A radiograph on a canvas, with heatmap, arrows and marks as layers.

import { colored, colors, levelFor, readLevels } from "./levels.js";
import { drawArrows, drawCross, drawMark } from "./marks.js";
import { fetchResponse } from "../lib/node.js";
import { fitted, matrix, onCanvas, onPicture, panned, turned, visiblePart, zoomed } from "./view.js";

const OPACITY = 0.4; // as in the result images
const PATIENCE_MS = 150; // delay before a new window is requested, so that dragging causes few requests
const SHARPEST = 2; // maximum number of canvas pixels per page pixel

export class Pane {
  #context;
  #tile = document.createElement("canvas");
  #isDue = false;
  #isFitted = true;
  #request = new AbortController();
  #timer;

  /**
   * @param {HTMLCanvasElement} canvas The canvas to draw on.
   * @param {string} id The id of the instance.
   */
  constructor(canvas, id) {
    this.canvas = canvas;
    this.id = id;
    this.levels = null;
    this.view = null;
    this.loaded = null; // the window of the loaded image
    this.displayed = null; // the window that is displayed
    this.first = null; // the window that the model saw
    this.isExact = true; // whether the loaded image has the displayed window
    this.isInverted = false;
    this.layers = { heatmap: false, arrow: true, opacity: OPACITY };
    this.heatmap = null;
    this.arrows = []; // in pixels of the image, in the order of their numbers
    this.marks = [];
    this.isAiming = false;
    this.onview = () => {};
    this.#context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** Canvas pixels per page pixel. */
  get sharpness() {
    return Math.min(devicePixelRatio, SHARPEST);
  }

  get middle() {
    return [this.canvas.width / 2, this.canvas.height / 2];
  }

  get picture() {
    return this.levels[0];
  }

  /** Load the radiograph with the window that the model saw, and show all of it. */
  async load() {
    await this.#read("", new AbortController().signal);
    this.first = this.displayed = this.loaded;
    this.fit();
  }

  /** Set the heatmap and the arrows to those of a result, or remove them if it has none. */
  async setResult({ drawing, operating_point: point }) {
    const locations = drawing?.locations ?? [];
    this.arrows = locations.map((each) => ({ tip: each.tip, tail: each.tail, isDashed: each.operating_point === "doubtful" }));
    this.heatmap = null;
    if (drawing) {
      const response = await fetchResponse(`/instances/${this.id}/heatmap`);
      this.heatmap = await createImageBitmap(await response.blob());
    }
    // The heatmap of a negative result has bright spots, too. A reader would take them for a finding.
    this.layers.heatmap = drawing !== null && point !== "none";
    this.redraw();
  }

  async #read(query, signal) {
    const response = await fetchResponse(`/instances/${this.id}/picture${query}`, { signal });
    const levels = await readLevels(await response.blob());
    if (signal.aborted) return;
    this.levels = levels;
    this.isExact = true;
    const value = (name) => Number(response.headers.get(name));
    this.loaded = { black: value("Gray-Black"), white: value("Gray-White") };
  }

  /**
   * Display another window, first with the loaded image, and later with an image that the node renders with it.
   * @param {{black: number, white: number}} displayed The values that should be black and white.
   */
  setWindow(displayed) {
    this.displayed = displayed;
    this.isExact = false;
    this.redraw();
    this.#request.abort();
    clearTimeout(this.#timer);
    this.#request = new AbortController();
    const { signal } = this.#request;
    this.#timer = setTimeout(() => this.#loadWindow(displayed, signal), PATIENCE_MS);
  }

  async #loadWindow(displayed, signal) {
    const [low, high] = [displayed.black, displayed.white].sort((a, b) => a - b);
    try {
      await this.#read(displayed === this.first ? "" : `?low=${low}&high=${high}`, signal);
    } catch (error) {
      if (signal.aborted) return;
      this.onview(error);
    }
    if (!signal.aborted) this.redraw();
  }

  /** Widen the window by a factor, and move it by a share of its width. */
  window(factor, share) {
    if (!this.displayed) return;
    const width = (this.displayed.white - this.displayed.black) * factor;
    const center = (this.displayed.white + this.displayed.black) / 2 + share * width;
    this.setWindow({ black: center - width / 2, white: center + width / 2 });
  }

  reset() {
    if (!this.levels) return;
    this.isInverted = false;
    this.view = fitted(this.picture, this.canvas);
    this.#isFitted = true;
    this.setWindow(this.first);
  }

  fit() {
    if (!this.levels) return;
    this.view = fitted(this.picture, this.canvas, this.view?.turn);
    this.#isFitted = true;
    this.redraw();
  }

  /** Show one image pixel per canvas pixel. */
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

  /** Toggle the layer "heatmap" or "arrow" (all arrows), or set the "opacity" of the heatmap. */
  setLayer(name, value = !this.layers[name]) {
    this.layers[name] = value;
    this.redraw();
  }

  /** Show or hide a cross in the middle, for marking by key. */
  aim(isAiming) {
    this.isAiming = isAiming;
    this.redraw();
  }

  /** Convert canvas coordinates to image coordinates; null outside the image. */
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
    this.#draw(); // immediately: resizing clears a canvas
  }

  /** Draw in the next frame, once for all changes before that frame. */
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
    const toCanvas = (point) => onCanvas(this.view, this.picture, point);
    if (this.layers.arrow) {
      const arrows = this.arrows.map((each) => ({ ...each, tip: toCanvas(each.tip), tail: toCanvas(each.tail) }));
      drawArrows(context, arrows, this.sharpness);
    }
    for (const mark of this.marks) drawMark(context, toCanvas(mark), this.sharpness);
    if (this.isAiming) drawCross(context, this.middle, this.sharpness);
  }

  #drawGray(context) {
    const level = levelFor(this.levels, this.view.scale);
    const [across, down] = [this.picture.width / level.width, this.picture.height / level.height];
    const part = visiblePart(this.view, this.picture, this.canvas);
    const left = Math.floor(part.left / across);
    const top = Math.floor(part.top / down);
    const width = Math.min(Math.ceil((part.left + part.width) / across), level.width) - left;
    const height = Math.min(Math.ceil((part.top + part.height) / down), level.height) - top;
    if (width <= 0 || height <= 0) return;
    const table = colors(this.loaded, this.displayed ?? this.loaded, this.isInverted);
    Object.assign(this.#tile, { width, height });
    this.#tile.getContext("2d").putImageData(colored(level, { left, top, width, height }, table), 0, 0);
    context.drawImage(this.#tile, left * across, top * down, width * across, height * down);
  }
}
