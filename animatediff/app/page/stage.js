// On a small screen the stage is below the form: it comes into view when a clip begins.
let busy = false;
watch('value', () => {
  const begins = !busy && element.querySelector('.tile:not(.finished)');
  busy = Boolean(element.querySelector('.tile:not(.finished):not(.failed)'));
  if (begins && element.getBoundingClientRect().top > innerHeight * 0.8) {
    element.scrollIntoView({ behavior: 'smooth', block: 'center' });
  }
});
