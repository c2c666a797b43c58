// The gray levels of an image at full size, and at repeatedly halved sizes.
//
// A radiograph of 20 megapixels is larger than a screen. When the window or the zoom changes, only the visible part is
// colored, in the size that suits the zoom. This takes about the same time for large and small images.

const BAND = 1024; // rows read at a time: canvases of tablets are limited to 16 megapixels
const SMALLEST = 256; // an image is halved while its long side is at least twice this number of pixels

/**
 * Read the gray levels of an image.
 * @param {Blob} blob A gray JPEG or PNG.
 * @returns {Promise<{width: number, height: number, gray: Uint8Array}[]>} All sizes, the full size first.
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
    await new Promise(requestAnimationFrame); // keeps the page responsive
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

/** Return the size with about one pixel per canvas pixel. `scale` is canvas pixels per pixel of the full size. */
export function levelFor(levels, scale) {
  const halvings = Math.round(Math.log2(1 / scale));
  return levels[Math.min(Math.max(halvings, 0), levels.length - 1)];
}

/**
 * Return a color for each gray level, to show an image with another window than the one it was rendered with.
 *
 * Values that the first window clipped stay clipped. Only the node has all values.
 * @param {{black: number, white: number}} loaded The values that are black and white in the image.
 * @param {{black: number, white: number}} displayed The values that should be black and white.
 * @param {boolean} isInverted Whether to swap black and white.
 * @returns {Uint32Array} Colors by gray level, in the memory format of pixels.
 */
export function colors(loaded, displayed, isInverted) {
  const table = new Uint8ClampedArray(256).map((_, gray) => {
    const value = loaded.black + ((loaded.white - loaded.black) * gray) / 255;
    return Math.round((255 * (value - displayed.black)) / (displayed.white - displayed.black));
  });
  return new Uint32Array(256).map((_, gray) => {
    const level = isInverted ? 255 - table[gray] : table[gray];
    return (0xff000000 | (level << 16) | (level << 8) | level) >>> 0;
  });
}

/** Return a part of an image as ImageData, with the colors of a table. `part` is {left, top, width, height}. */
export function colored({ width, gray }, part, table) {
  const image = new ImageData(part.width, part.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let row = 0, to = 0; row < part.height; row += 1) {
    let from = (part.top + row) * width + part.left;
    for (const end = to + part.width; to < end; to += 1, from += 1) pixels[to] = table[gray[from]];
  }
  return image;
}
