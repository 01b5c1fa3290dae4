import { defineConfig } from 'vite'

// Everything is served by a Starling server under /ui with default-src 'self': no inlined assets.
export default defineConfig({
  base: '/ui/',
  build: { target: 'es2022', assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: true, emptyOutDir: true },
  server: { proxy: { '/v1': process.env.STARLING_ADDR || 'http://127.0.0.1:7470' } }, // npx vite, for work on the page
})
