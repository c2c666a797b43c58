// Switch between the dark theme, which is the default, and the light one. The server reads the choice from a cookie.

const YEAR_S = 365 * 24 * 3600;
const button = document.getElementById("theme");

button.addEventListener("click", () => {
  const { dataset } = document.documentElement;
  dataset.theme = dataset.theme === "light" ? "dark" : "light";
  document.cookie = `theme=${dataset.theme}; path=/; max-age=${YEAR_S}; samesite=strict`;
});
