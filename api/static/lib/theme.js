// Dark theme, or light by choice. A cookie stores the choice, so that the next page starts with the right colors.

const YEAR_S = 365 * 24 * 3600;
const button = document.getElementById("theme");

button.addEventListener("click", () => {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "light" ? "dark" : "light";
  document.cookie = `theme=${dataset.theme}; path=/; max-age=${YEAR_S}; samesite=strict`;
});
