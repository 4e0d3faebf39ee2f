// Runs once for an HTML component. Elements with data-act send their data and their value.
const send = (target) => trigger('input', { ...target.dataset, value: target.dataset.value ?? target.value });
let key = null;
element.addEventListener('change', (event) => {
  if (event.target.matches('input[data-act]')) send(event.target);
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-act]');
  if (button) send(button);
});
element.addEventListener('focusin', (event) => {
  const { act, place, picture } = event.target.dataset;
  key = act ? `[data-act="${act}"][data-place="${place}"]` + (picture ? `[data-picture="${picture}"]` : '') : null;
});
// The content is new after each answer: the element that had the focus gets it back.
watch('value', () => {
  if (key && document.activeElement === document.body) element.querySelector(key)?.focus();
});
