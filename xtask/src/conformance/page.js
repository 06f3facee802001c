const all = [...document.querySelectorAll("tr.rule")];
const pick = (id) => document.getElementById(id);
const show = () => {
  const words = pick("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of all) {
    const text = row.textContent.toLowerCase();
    const fits = ["level", "state", "verdict"].every(
      (name) => !pick(name).value || row.dataset[name] === pick(name).value,
    );
    row.hidden = !(fits && words.every((word) => text.includes(word)));
    count += row.hidden ? 0 : 1;
  }
  pick("count").value = `${count} of ${all.length} rules`;
  pick("none").hidden = count > 0;
};
pick("filters").addEventListener("input", show);
pick("filters").addEventListener("submit", (event) => event.preventDefault());
show();
