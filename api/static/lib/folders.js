// Find the files in dropped files and folders.

/** Return all files of a drop event. Files in folders are sorted by name. */
export async function filesOf(dataTransfer) {
  // The entries are only valid during the event, so they are read before the first await.
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

/** Return all entries of a folder. The reader returns a part of them at a time, and an empty list at the end. */
async function entriesIn(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all.sort((one, other) => one.name.localeCompare(other.name));
    all.push(...some);
  }
}
