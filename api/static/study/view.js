// The position of an image on its canvas, as pure functions. Nothing is drawn here.
//
// A view is {scale, x, y, turn}: canvas pixels per image pixel, the position of the image center on the canvas, and
// quarter turns clockwise. Sizes are {width, height}, points are [x, y] from the top left corner.

const LEAST = 1 / 64; // minimum scale
const MOST = 32; // maximum scale
const COSINE = [1, 0, -1, 0];
const SINE = [0, 1, 0, -1];

/** Return the view that shows the whole image as large as possible. */
export function fitted(picture, canvas, turn = 0) {
  const { width, height } = turn % 2 ? { width: picture.height, height: picture.width } : picture;
  const scale = Math.min(canvas.width / width, canvas.height / height);
  return { scale, x: canvas.width / 2, y: canvas.height / 2, turn };
}

/** Return a view that is zoomed by a factor. The image keeps its position at a point of the canvas. */
export function zoomed(view, factor, [x, y]) {
  const scale = Math.min(Math.max(view.scale * factor, LEAST), MOST);
  const real = scale / view.scale;
  return { ...view, scale, x: x + (view.x - x) * real, y: y + (view.y - y) * real };
}

export const panned = (view, dx, dy) => ({ ...view, x: view.x + dx, y: view.y + dy });

/** Return a view that is turned by a quarter, clockwise around the center of the canvas. */
export function turned(view, canvas) {
  const [dx, dy] = [view.x - canvas.width / 2, view.y - canvas.height / 2];
  return { ...view, turn: (view.turn + 1) % 4, x: canvas.width / 2 - dy, y: canvas.height / 2 + dx };
}

/** Convert image coordinates to canvas coordinates. */
export function onCanvas(view, picture, [column, row]) {
  const [u, v] = [(column - picture.width / 2) * view.scale, (row - picture.height / 2) * view.scale];
  const [cosine, sine] = [COSINE[view.turn], SINE[view.turn]];
  return [view.x + cosine * u - sine * v, view.y + sine * u + cosine * v];
}

/** Convert canvas coordinates to image coordinates. The result may be outside the image. */
export function onPicture(view, picture, [x, y]) {
  const [dx, dy] = [(x - view.x) / view.scale, (y - view.y) / view.scale];
  const [cosine, sine] = [COSINE[view.turn], SINE[view.turn]];
  return [picture.width / 2 + cosine * dx + sine * dy, picture.height / 2 - sine * dx + cosine * dy];
}

/** Return the transformation of `onCanvas` as arguments of setTransform: a, b, c, d, e, f. */
export function matrix(view, picture) {
  const [a, b] = [COSINE[view.turn] * view.scale, SINE[view.turn] * view.scale];
  return [a, b, -b, a, ...onCanvas(view, picture, [0, 0])];
}

/** Return the visible part of the image in whole pixels: {left, top, width, height}. */
export function visiblePart(view, picture, canvas) {
  const corners = [[0, 0], [canvas.width, canvas.height]].map((corner) => onPicture(view, picture, corner));
  const [left, right] = range(corners.map(([column]) => column), picture.width);
  const [top, bottom] = range(corners.map(([, row]) => row), picture.height);
  return { left, top, width: right - left, height: bottom - top };
}

function range(ends, most) {
  const inside = (value) => Math.min(Math.max(value, 0), most);
  return [inside(Math.floor(Math.min(...ends))), inside(Math.ceil(Math.max(...ends)))];
}
