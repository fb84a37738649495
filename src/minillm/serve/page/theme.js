// Before the first paint, so that a page that was chosen dark does not flash light.
try {
  const theme = localStorage.getItem("minillm.theme");
  if (theme) document.documentElement.dataset.theme = JSON.parse(theme);
} catch {
  // Without storage the system's choice holds.
}
