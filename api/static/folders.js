// What was dropped: files, and those in folders.

/** List all files of a drop, those of folders in the order of their names. */
export async function filesOf(dataTransfer) {
  // Entries are gone once the event is over, so they are taken before anything is waited for.
  const entries = [...dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
  if (entries.some((entry) => !entry)) return [...dataTransfer.files];
  const found = [];
  for (const entry of entries) found.push(...(await filesIn(entry)));
  return found;
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const found = [];
  for (const each of await entriesIn(entry)) found.push(...(await filesIn(each)));
  return found;
}

/** The reader hands out some entries at a time, until it hands out none. */
async function entriesIn(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all.sort((one, other) => one.name.localeCompare(other.name));
    all.push(...some);
  }
}
