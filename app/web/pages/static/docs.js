// Shows /openapi.json; everything it needs is bundled.
window.addEventListener('DOMContentLoaded', () => {
  const at = document.documentElement.dataset.at;
  SwaggerUIBundle({ url: `${at}/openapi.json`, dom_id: '#docs', deepLinking: true, validatorUrl: null });
});
