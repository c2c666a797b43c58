// Pointer and keyboard input for a pane.

const STEP = 40; // page pixels that a key moves the image
const ZOOM = 1.25;
const WIDER = 1.1;
const SHARE = 0.05; // share of the window width that a key moves the window
const FADE = 0.1;

/** The action of each key. The page lists these keys. SHIFTED has the keys with Shift, which change the window. */
const KEYS = {
  ArrowLeft: (pane) => pane.pan(STEP * pane.sharpness, 0),
  ArrowRight: (pane) => pane.pan(-STEP * pane.sharpness, 0),
  ArrowUp: (pane) => pane.pan(0, STEP * pane.sharpness),
  ArrowDown: (pane) => pane.pan(0, -STEP * pane.sharpness),
  "+": (pane) => pane.zoom(ZOOM),
  "=": (pane) => pane.zoom(ZOOM),
  "-": (pane) => pane.zoom(1 / ZOOM),
  f: (pane) => pane.fit(),
  1: (pane) => pane.full(),
  r: (pane) => pane.turn(),
  i: (pane) => pane.invert(),
  d: (pane) => pane.reset(),
  h: (pane) => pane.setLayer("heatmap"),
  a: (pane) => pane.setLayer("arrow"),
  "[": (pane) => pane.setLayer("opacity", Math.max(pane.layers.opacity - FADE, 0)),
  "]": (pane) => pane.setLayer("opacity", Math.min(pane.layers.opacity + FADE, 1)),
};
const SHIFTED = {
  ArrowLeft: (pane) => pane.window(1 / WIDER, 0),
  ArrowRight: (pane) => pane.window(WIDER, 0),
  ArrowUp: (pane) => pane.window(1, -SHARE),
  ArrowDown: (pane) => pane.window(1, SHARE),
};

/**
 * Listen to the pointers and keys of a pane.
 * @param {Pane} pane The pane to control.
 * @param {() => "window" | "pan" | "mark"} mode Returns the effect of dragging. For "mark", a click sets a mark.
 * @param {(position: [number, number]) => void} mark Called with a point in image coordinates.
 */
export function listen(pane, mode, mark) {
  const { canvas } = pane;
  const pointers = new Map();

  canvas.addEventListener("pointerdown", (event) => {
    if (mode() === "mark" && event.button === 0) {
      const position = pane.at(point(pane, event));
      if (position) mark(position);
      return;
    }
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, point(pane, event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    pointers.set(event.pointerId, point(pane, event));
    drag(pane, before, [...pointers.values()], event.buttons === 1 ? mode() : "pan");
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    pane.zoom(2 ** (-event.deltaY / 400), point(pane, event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const action = (event.shiftKey && SHIFTED[event.key]) || KEYS[event.key] || KEYS[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action(pane);
  });
}

/** Return the canvas coordinates of an event. */
const point = (pane, { offsetX, offsetY }) => [offsetX * pane.sharpness, offsetY * pane.sharpness];

/** Handle a drag. One pointer moves the image or changes the window, and two pointers move and zoom the image. */
function drag(pane, before, after, mode) {
  const [from, to] = [middle(before), middle(after)];
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  if (after.length > 1) {
    pane.pan(dx, dy);
    pane.zoom(spread(after) / Math.max(spread(before), 1), to);
  } else if (mode === "pan") pane.pan(dx, dy);
  else pane.window(2 ** ((3 * dx) / pane.canvas.width), dy / pane.canvas.height);
}

const middle = (points) => [0, 1].map((axis) => points.reduce((sum, one) => sum + one[axis], 0) / points.length);
const spread = ([one, other]) => Math.hypot(one[0] - other[0], one[1] - other[1]);
