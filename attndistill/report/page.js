// What ../speed.js says of this machine, where it is there and speaks of this page's models. Texts stay texts.
(() => {
  const told = globalThis.attndistill_speed, models = told?.models ?? {};
  const pace = document.getElementById("pace");
  if (pace && told?.sentence?.models?.join(" ") === pace.dataset.models) pace.textContent = told.sentence.text;

  const names = [...document.querySelectorAll("th[id^='size-']")];
  const account = name => name.id.slice("size-".length);
  if (!names.some(name => Object.hasOwn(models, account(name)))) return;
  const table = names[0].closest("table"), heads = [...table.tHead.rows];
  const added = (row, kind, text) => {
    const cell = row.appendChild(document.createElement(kind));
    cell.textContent = text;
    return cell;
  };
  heads.slice(0, -1).forEach(row => added(row, "td", ""));
  added(heads.at(-1), "th", "Images a second").scope = "col";
  for (const name of names) {
    const found = Object.hasOwn(models, account(name)) ? models[account(name)].images_a_second : "";
    added(name.parentElement, "td", found && Math.round(found).toLocaleString("en-US"));
  }
  added(table.closest(".scroll").nextElementSibling, "li", `Images a second on ${told.place}.`);
})();
