// A clip that is dropped anywhere goes to the place for dropped clips.
const hasFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes('Files');
document.addEventListener('dragover', (event) => {
  if (hasFiles(event)) event.preventDefault();
});
document.addEventListener('drop', (event) => {
  if (!hasFiles(event) || event.defaultPrevented || event.target.closest('#drop')) return;
  event.preventDefault();
  const input = document.querySelector('#drop input[type=file]');
  if (!input) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event('change', { bubbles: true }));
});
