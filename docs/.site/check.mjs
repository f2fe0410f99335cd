// Follows every link of a built site to a page and a heading that exist, and
// looks that a browser would fetch nothing from elsewhere.
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

const root = process.argv[2]
const base = process.env.SITE_BASE ?? '/'
const files = readdirSync(root, { recursive: true }).map(String)
const pages = new Map(files.filter((f) => f.endsWith('.html')).map((f) => [f.replaceAll('\\', '/'), readFileSync(join(root, f), 'utf8')]))
const ids = new Map([...pages].map(([name, text]) => [name, new Set([...text.matchAll(/\sid="([^"]+)"/g)].map((m) => m[1]))]))
const wrong = []
let followed = 0

for (const [name, text] of pages) {
  for (const [, what, url] of text.matchAll(/\s(href|src)="([^"]*)"/g)) {
    const link = url.replaceAll('&amp;', '&')
    if (/^(https?:)?\/\//.test(link)) {
      if (what === 'src') wrong.push(`${name}: fetches ${link}`)
      continue
    }
    if (/^(data|mailto):/.test(link)) continue
    followed++
    const to = new URL(link, 'http://site' + base + name)
    if (!to.pathname.startsWith(base)) wrong.push(`${name}: ${link} leads out of the site`)
    let target = decodeURIComponent(to.pathname).slice(base.length)
    if (target === '' || target.endsWith('/')) target += 'index.html'
    const anchor = decodeURIComponent(to.hash).slice(1)
    if (!existsSync(join(root, target)) || statSync(join(root, target)).isDirectory()) wrong.push(`${name}: ${link} leads nowhere`)
    else if (anchor && !ids.get(target)?.has(anchor)) wrong.push(`${name}: ${target} has no heading #${anchor}`)
  }
  for (const [tag] of text.matchAll(/<link\b[^>]*href="(?:https?:)?\/\/[^>]*>/g)) wrong.push(`${name}: fetches ${tag}`)
}
for (const f of files.filter((f) => f.endsWith('.css'))) {
  for (const [, url] of readFileSync(join(root, f), 'utf8').matchAll(/url\(["']?((?:https?:)?\/\/[^)"']+)/g)) wrong.push(`${f}: fetches ${url}`)
}
if (pages.size < 20 || followed < 500) wrong.push(`only ${pages.size} pages and ${followed} links: is this the site?`)
if (wrong.length > 0) {
  console.error(wrong.join('\n'))
  process.exit(1)
}
console.log(`${pages.size} pages, ${followed} links: all lead somewhere`)
