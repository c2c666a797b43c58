// The gray levels of a picture, at its full size and halved again and again.
//
// A 20-megapixel radiograph is far larger than a screen. Of the size that suits the zoom, only the part that is seen
// is colored anew when window or zoom change; so that takes as long for a large picture as for a small one.

const BAND = 1024; // rows read at once: the canvases of tablets hold 16 megapixels
const SMALLEST = 256;

/**
 * Read a picture.
 * @param {Blob} blob A gray JPEG or PNG.
 * @returns {Promise<{width: number, height: number, gray: Uint8Array}[]>} The full size first.
 */
export async function readLevels(blob) {
  const bitmap = await createImageBitmap(blob);
  const levels = [await read(bitmap)];
  bitmap.close();
  while (Math.max(levels.at(-1).width, levels.at(-1).height) >= 2 * SMALLEST) levels.push(halved(levels.at(-1)));
  return levels;
}

async function read(bitmap) {
  const { width, height } = bitmap;
  const gray = new Uint8Array(width * height);
  const canvas = Object.assign(document.createElement("canvas"), { width, height: Math.min(BAND, height) });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < height; top += BAND) {
    const rows = Math.min(BAND, height - top);
    context.drawImage(bitmap, 0, top, width, rows, 0, 0, width, rows);
    const { data } = context.getImageData(0, 0, width, rows);
    for (let from = 0, to = top * width; from < data.length; from += 4, to += 1) gray[to] = data[from];
    await new Promise(requestAnimationFrame); // the page stays alive meanwhile
  }
  return { width, height, gray };
}

function halved({ width, height, gray }) {
  const [columns, rows] = [Math.max(width >> 1, 1), Math.max(height >> 1, 1)];
  const smaller = new Uint8Array(columns * rows);
  const [right, below] = [width > 1 ? 1 : 0, height > 1 ? width : 0];
  for (let row = 0, to = 0; row < rows; row += 1) {
    for (let column = 0, from = 2 * row * width; column < columns; column += 1, from += 2, to += 1) {
      smaller[to] = (gray[from] + gray[from + right] + gray[from + below] + gray[from + below + right] + 2) >> 2;
    }
  }
  return { width: columns, height: rows, gray: smaller };
}

/** The size whose pixels come closest to those of the screen. */
export function suited(levels, scale) {
  const halvings = Math.round(Math.log2(1 / scale));
  return levels[Math.min(Math.max(halvings, 0), levels.length - 1)];
}

/**
 * The colors of gray levels when a picture that shows one window shall show another.
 *
 * What the first one cut off stays cut off; the node has the values for all of them.
 * @param {{black: number, white: number}} shown The values that are black and white in the picture.
 * @param {{black: number, white: number}} wanted Those that shall be.
 * @param {boolean} isInverted Turn black and white around in the end.
 * @returns {Uint32Array} By gray level, as pixels lie in memory.
 */
export function colors(shown, wanted, isInverted) {
  const table = new Uint8ClampedArray(256).map((_, gray) => {
    const value = shown.black + ((shown.white - shown.black) * gray) / 255;
    return Math.round((255 * (value - wanted.black)) / (wanted.white - wanted.black));
  });
  return new Uint32Array(256).map((_, gray) => {
    const level = isInverted ? 255 - table[gray] : table[gray];
    return (0xff000000 | (level << 16) | (level << 8) | level) >>> 0;
  });
}

/** A part of a picture in colors, to be put onto a canvas. */
export function colored({ width, gray }, part, table) {
  const image = new ImageData(part.width, part.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0, to = 0; row < part.height; row += 1) {
    let from = (part.top + row) * width + part.left;
    for (const end = to + part.width; to < end; to += 1, from += 1) pixels[to] = table[gray[from]];
  }
  return image;
}
