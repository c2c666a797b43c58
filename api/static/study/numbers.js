// The places of the numbers of several arrows, as a pure function, like inference/drawing/numbers.py.
//
// Points are [x, y] on the canvas. An arrow is {tip, tail}.

const [DIRECTIONS, GAPS] = [24, [0.2, 0.7, 1.2]]; // directions from the tail that are tried, and distances in heights of a number
const COST = { tip: 1000, number: 100, other: 30, shaft: 6 }; // a shaft costs this for each height of a number that is covered
const FARTHER = 1.5; // minimum distance from other arrows, relative to that from the tail
const POINTS = 33; // points of an arrow to which the distance of a number is measured

/**
 * Return the centers of the numbers. A number is beside the tail of its arrow, if possible in the direction from the tip to
 * the tail. It avoids tips, other numbers and shafts. If the tail is on the canvas, the number is, too.
 * @param {{tip: number[], tail: number[]}[]} arrows The arrows in the order of their numbers.
 * @param {{width: number, height: number}} canvas The size of the canvas.
 * @param {{width: number, height: number}} box The size of a number.
 */
export function numberPlaces(arrows, canvas, box) {
  const lines = arrows.map(points);
  const places = [];
  for (const [index, arrow] of arrows.entries()) {
    const cost = (place) => detour(place, arrow, box) + nearArrows(place, lines, index, box) + COST.number * overlaps(place, places, box);
    const tried = candidates(arrow, canvas, box).map((place) => ({ place, cost: cost(place) }));
    places.push(tried.reduce((best, each) => (each.cost < best.cost ? each : best)).place);
  }
  return places;
}

/** Return points from the tip to the tail. */
function points({ tip, tail }) {
  const at = (share) => [tip[0] + share * (tail[0] - tip[0]), tip[1] + share * (tail[1] - tip[1])];
  return Array.from({ length: POINTS }, (_, index) => at(index / (POINTS - 1)));
}

/** Return centers of a number around the tail of an arrow. */
function candidates({ tail: [x, y] }, canvas, box) {
  const isVisible = x >= 0 && y >= 0 && x <= canvas.width && y <= canvas.height;
  const clipped = (value, side, half) => (isVisible ? Math.max(Math.min(value, side - half), half) : value);
  return GAPS.flatMap((gap) => Array.from({ length: DIRECTIONS }, (_, index) => {
    const [across, down] = [Math.cos((2 * Math.PI * index) / DIRECTIONS), Math.sin((2 * Math.PI * index) / DIRECTIONS)];
    // At this distance without the gap, a line through the tail touches the box of the number.
    const reach = (Math.abs(across) * box.width + Math.abs(down) * box.height) / 2 + gap * box.height;
    return [clipped(x + reach * across, canvas.width, box.width / 2), clipped(y + reach * down, canvas.height, box.height / 2)];
  }));
}

/** Return the cost of the direction from the tail and of the distance from it. */
function detour(place, { tip, tail }, box) {
  const [backX, backY] = [tail[0] - tip[0], tail[1] - tip[1]];
  const [awayX, awayY] = [place[0] - tail[0], place[1] - tail[1]];
  const distance = Math.hypot(awayX, awayY);
  const cosine = (awayX * backX + awayY * backY) / Math.max(distance * Math.hypot(backX, backY), 1e-9);
  return 1 - cosine + (2 * distance) / box.height;
}

/** Return the cost of the tips and shafts near a place. The number belongs to the arrow with this index. */
function nearArrows(place, lines, index, box) {
  const distances = lines.map((line) => line.map((point) => distanceToBox(place, point, box)));
  let cost = 0;
  for (const [number, line] of lines.entries()) {
    const [tip, tail] = [line[0], line[POINTS - 1]];
    const covered = distances[number].filter((each) => each < box.height / 12).length / POINTS;
    cost += (COST.shaft * covered * Math.hypot(tail[0] - tip[0], tail[1] - tip[1])) / box.height;
    if (distances[number][0] < box.height / 3) cost += COST.tip;
  }
  const nearest = Math.min(...distances.filter((_, number) => number !== index).flat());
  return cost + (nearest < FARTHER * distances[index][POINTS - 1] ? COST.other : 0);
}

/** Return the distance of a point from the box of a number. */
function distanceToBox([x, y], point, box) {
  return Math.hypot(Math.max(Math.abs(point[0] - x) - box.width / 2, 0), Math.max(Math.abs(point[1] - y) - box.height / 2, 0));
}

/** Return how many of the places of other numbers a number would overlap. */
const overlaps = ([x, y], places, box) => places.filter((each) => Math.abs(each[0] - x) < box.width && Math.abs(each[1] - y) < box.height).length;
