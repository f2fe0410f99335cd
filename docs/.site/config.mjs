// The site of docs/. The pages are written for a code host first: links between
// them are links to files, and anchors are those that a code host makes.
import { readdirSync, readFileSync } from 'node:fs'
import { defineConfig } from 'vitepress'

const repository = 'https://github.com/cwprelay/cwprelay'

// slug is what a code host makes of a heading.
const slug = (text) =>
  text.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replace(/ /g, '-')

// follow brings a link to where the site has its target: a README is the index
// of its folder, and what is not in docs/ is at the code host.
function follow(href, page) {
  if (/^[a-z]+:|^#/.test(href)) return href
  const [file, anchor] = href.split('#')
  const from = page.split('/').slice(0, -1)
  for (const part of file.split('/')) {
    if (part === '..' && from.length === 0) return `${repository}/blob/main/${file.replace(/^(\.\.\/)+/, '')}`
    if (part === '..') from.pop()
    else from.push(part)
  }
  return file.replace(/(^|\/)README\.md$/, '$1index.md') + (anchor ? '#' + anchor : '')
}

function pages(md) {
  // Braces are text here, nothing to compute.
  const text = md.renderer.rules.text
  md.renderer.rules.text = (...args) => text(...args).replaceAll('{{', '&#123;&#123;')
  md.core.ruler.push('follow', (state) => {
    for (const block of state.tokens) {
      for (const token of block.children ?? []) {
        if (token.type === 'link_open') {
          token.attrSet('href', follow(token.attrGet('href'), state.env.relativePath ?? ''))
        }
      }
    }
  })
}

const item = (text, link) => ({ text, link: `/${link}` })

// rest are the pages that no group of the sidebar names, by their headings.
function rest(groups) {
  const named = groups.flatMap((g) => g.items.map((i) => i.link.slice(1).replace(/^$|(?<=\/)$/, 'index')))
  const src = new URL('../src/', import.meta.url)
  const pages = readdirSync(src, { recursive: true }).map((f) => String(f).replaceAll('\\', '/')).filter((f) => f.endsWith('.md')).sort()
  return pages.filter((f) => !named.includes(f.slice(0, -3)))
    .map((f) => item(readFileSync(new URL(f, src), 'utf8').match(/^# (.*)$/m)?.[1] ?? f, f.slice(0, -3)))
}

const groups = [
  { text: 'Begin', items: [item('Overview', ''), item('Quick start', 'quickstart'), item('Concepts', 'concepts'), item('Guarantees', 'guarantees'), item('Proof', 'proof')] },
  { text: 'Use', items: [item('Install', 'install'), item('Configuration', 'configuration'), item('Webhook recipes', 'recipes'), item('Exit codes and signals', 'exit-codes')] },
  {
    text: 'Sinks',
    items: [
      item('Splunk HEC', 'sinks/splunk_hec'), item('Elasticsearch, OpenSearch', 'sinks/elasticsearch'), item('Kafka', 'sinks/kafka'), item('Syslog', 'sinks/syslog'),
      item('Slack', 'sinks/slack'), item('Webhook', 'sinks/webhook'), item('File, standard output', 'sinks/file'),
    ],
  },
  {
    text: 'Formats',
    items: [item('Overview', 'formats/'), item('ECS', 'formats/ecs'), item('OCSF', 'formats/ocsf'), item('Splunk CIM', 'formats/splunk'), item('CEF', 'formats/cef'), item('LEEF', 'formats/leef')],
  },
  { text: 'Operate', items: [item('Operations', 'operations'), item('Performance', 'performance'), item('Metrics and alerts', 'metrics'), item('Security', 'security'), item('Troubleshooting', 'troubleshooting')] },
  { text: 'Decide', items: [item('Questions', 'faq'), item('Performance', 'performance'), item('Comparison', 'comparison'), item('Moving to cwprelay', 'migration')] },
]
const more = rest(groups)
if (more.length > 0) groups.push({ text: 'More', items: more })

export default defineConfig({
  title: 'cwprelay',
  description: 'Carries findings of Tencent Cloud Workload Protection into a SIEM',
  base: process.env.SITE_BASE ?? '/', // where it is served, with a slash at both ends
  srcDir: 'src',
  outDir: 'dist',
  cacheDir: 'cache',
  markdown: { anchor: { slugify: slug }, config: pages },
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    socialLinks: [{ icon: 'github', link: repository }],
    sidebar: groups,
  },
})
