"""Makes docs/ and README.md from the notebooks: `python .ci/site.py [--docs FOLDER] [--readme FILE]`. Nothing is run but imports and exported cells.

nbdev prepares the notebooks (signatures, tables of arguments, links), smalldocs lays them out; both read nbs/_quarto.yml, so that
whoever has Quarto gets a like site from `nbdev_docs`. What this file adds: exported source under each signature, folded
(open for `#| exports`), page names and links as nbdev means them, relative so that pages open from a folder too, numbered
figures, KaTeX from a local copy, pictures as files, a search that needs no server."""
import argparse, ast, hashlib, html, json, os, posixpath, re, shutil, sys, tempfile
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = re.compile(r'(?<![\w.])\d+[a-z]?_(?=\w[\w-]*\.ipynb)')        # the `00_` that nbdev drops from page names

# --- notebooks: from what the author wrote to what is laid out

def export_names(cell):
    "What an exported cell defines: the names of its functions, classes and constants"
    tree = ast.parse(cell.source).body
    targets = [t for n in tree if isinstance(n, ast.Assign) for t in n.targets]
    return [n.name for n in tree if hasattr(n, 'name')] + [t.id for t in targets if isinstance(t, ast.Name)]

def filters():
    "nbdev's notebook processors, with exported source kept: folded, under its documentation"
    from nbdev import processors as P

    class Keep(P.Processor):
        def cell(self, cell):
            d = cell.directives_
            if cell.cell_type == 'code' and 'export' in d and 'hide' not in d and export_names(cell): d['exports'] = [d.pop('export'), 'folded']

    def linked(cell):
        if cell.cell_type == 'markdown': cell.source = re.sub(r'\[`([^`\n]+)`\]\(', r'[<code>\1</code>](', cell.source)   # a link already: nbdev would put its own inside

    def fold(cell):
        if cell.cell_type != 'code' or 'exports' not in cell.directives_: return
        how = 'true' if 'folded' in cell.directives_['exports'] else 'show'        # `#| exports` stands open
        cell.source = f'#| code-fold: {how}\n#| code-summary: "Source of {", ".join(export_names(cell))}"\n{cell.source}'

    class DocsFirst(P.Processor):
        def begin(self):
            cells = self.nb.cells
            for i in range(len(cells)):
                j = i+1
                while j < len(cells) and getattr(cells[j], 'has_sd', 0): j += 1
                if 'exports' in getattr(cells[i], 'directives_', {}): cells[i:j] = [*cells[i+1:j][::-1], cells[i]]   # nbdev has them backwards

    swap = {P.add_fold: fold, P.mv_exports: DocsFirst}
    return [Keep, linked] + [swap.get(p, p) for p in P.FilterDefaults().base_procs()]

def number(nb):
    "Quarto's cross-references: figures, tables and equations with a label get a number, `@fig-x` a link to it"
    count, seen, words = {}, {}, dict(fig='Figure', tbl='Table', eq='Equation')
    def nth(label):
        kind = label.split('-')[0]
        count[kind] = count.get(kind, 0)+1
        seen[label] = f'{words[kind]} {count[kind]}'
        return seen[label]
    for c in nb.cells:
        s = c.source or ''
        if c.cell_type == 'code':
            m = re.search(r'^#\|\s*label:\s*((?:fig|tbl)-[\w-]+)', s, re.M)
            name = nth(m[1])+': ' if m else ''
            for m in re.finditer(r'^#\|\s*((?:fig|tbl)-cap):\s*(.+)$', s, re.M):
                cap = yaml.safe_load(m[2])
                if not isinstance(cap, str): continue
                alt = f'#| fig-alt: {json.dumps(cap)}\n' if m[1] == 'fig-cap' and 'fig-alt:' not in s else ''
                c.source = s.replace(m[0], f'{alt}#| {m[1]}: {json.dumps(name+cap, ensure_ascii=False)}')
        else:
            s = re.sub(r'!\[(.*?)\](\(.*?\)\{#(fig-[\w-]+))', lambda m: f'![{nth(m[3])}: {m[1]}]{m[2]}', s)
            s = re.sub(r'^: (.*\{#(tbl-[\w-]+)\})', lambda m: f': {nth(m[2])}: {m[1]}', s, flags=re.M)
            s = re.sub(r'\$\$\s*\{#(eq-[\w-]+)\}', lambda m: rf'\tag{{{nth(m[1]).split()[1]}}}$$'+f'\n\n[]{{#{m[1]}}}', s)
            c.source = s
    for c in nb.cells:
        if c.cell_type == 'markdown' and c.source:
            c.source = re.sub(r'(?<![\w`])@((?:fig|tbl|eq)-[\w-]+)', lambda m: f'[{seen[m[1]]}](#{m[1]})' if m[1] in seen else m[0], c.source)

def prepare(src, dst, rel):
    "The notebook `src` as its page wants it, written to `dst`; `rel` is its path in the site"
    from execnb.nbio import read_nb, write_nb
    from nbdev.config import get_config
    from nbdev.process import NBProcessor
    cfg, up = get_config(), '../'*(len(rel.parts)-1)
    nb = read_nb(src)
    NBProcessor(nb=nb, procs=filters()).process()
    nb.cells = [c for c in nb.cells if c.get('source')]
    number(nb)
    def mend(s): return NUMBERED.sub('', ''.join(s).replace(f'{cfg.doc_host}{cfg.doc_baseurl}/', up))
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = mend(c.source)
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                s = mend(o['data']['text/markdown'])
                s = re.sub(r'^---\n\n(\[source\]\([^)]*\)\{[^}]*\}\n\n)?', '', s)       # the source is below, folded
                s = re.sub(r'^(#+ .*?\.)__(\w+)__', r'\1\_\_\2\_\_', s, flags=re.M)          # no emphasis meant: `__call__`,
                plain = lambda m: re.sub(r'\[(`[^`\n]+`)\]\([^)\n]*\)', r'\1', m[0])
                s = re.sub(r'^```.*?^```', plain, s, flags=re.M|re.S)                         # in code nbdev's links are no links
                star = lambda m: '*'+''.join(t if i%2 else t.replace('*','\\*') for i, t in enumerate(re.split('(`[^`]*`)', m[1])))+'*'
                o['data']['text/markdown'] = re.sub(r'^\*(.+)\*$', star, s, flags=re.M)  # nor `(N,C,h*s,w*s)` in a docstring
    nb.metadata.pop('widgets', None)
    dst.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, dst)

# --- the site

def build(out, root=ROOT):
    "The whole site from `root`/nbs into the folder `out`, which is replaced"
    os.environ['IN_TEST'] = '1'                                           # as nbdev does: notebooks know that nobody looks
    nbs = root/'nbs'
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        for f in sorted(nbs.rglob('*')):
            rel = f.relative_to(nbs)
            if f.is_dir() or any(p[0] in '._' and p != '_quarto.yml' for p in rel.parts): continue
            if f.suffix == '.ipynb': prepare(f, tmp/NUMBERED.sub('', str(rel)), rel)
            else: (tmp/rel).parent.mkdir(parents=True, exist_ok=True); shutil.copy(f, tmp/rel)
        configure(tmp)
        render(tmp)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp/'_site', out)

def configure(tmp):
    "Settings for smalldocs: page names without numbers, only rooms that are there, no address of a host"
    side = yaml.safe_load(NUMBERED.sub('', (tmp/'sidebar.yml').read_text()))
    def there(items): return [i for i in map(entry, items) if i]
    def entry(i):
        if isinstance(i, dict) and 'contents' in i: return (c := there(i['contents'])) and {**i, 'contents': c}
        return i if (tmp/(i['href'] if isinstance(i, dict) else i)).exists() else None
    side['website']['sidebar']['contents'] = there(side['website']['sidebar']['contents'])
    (tmp/'sidebar.yml').write_text(yaml.safe_dump(side, sort_keys=False))
    web = yaml.safe_load((tmp/'nbdev.yml').read_text())['website']
    (tmp/'nbdev.yml').write_text(yaml.safe_dump({'website': {k: web[k] for k in ('title', 'description')}}))

def render(tmp):
    "Lay the pages out in `tmp`/_site and make them whole without a network"
    from smalldocs import layout
    from smalldocs.site import build as smalldocs
    cdn, layout.KATEX = layout.KATEX, 'site_libs/katex'
    try: smalldocs(tmp, quiet=True)
    finally: layout.KATEX = cdn
    site = tmp/'_site'
    libs = site/'site_libs'
    shutil.copytree(ROOT/'.ci'/'katex', libs/'katex')                      # npm's katex 0.16.22: what a page loads of it, woff2 fonts only
    (site/'.nojekyll').touch()
    # search opens from a folder too: the index comes as a script, since pages of a folder may not fetch
    js = libs/'smalldocs.js'
    old = 'const r = await fetch(offset + "search.json");\n      index = await r.json();'
    new = ('await new Promise((done, fail) => { const s = document.createElement("script"); Object.assign(s, { src: offset + "search.js", onload: done, onerror: fail }); '
           'document.head.append(s); });\n      index = window.searchIndex;')
    assert old in js.read_text(), 'smalldocs.js has changed: mend the search'
    js.write_text(js.read_text().replace(old, new))
    (site/'search.js').write_text(f'window.searchIndex = {(site/"search.json").read_text()};\n')
    (site/'search.json').unlink()
    for page in site.rglob('*.html'):
        s, up = page.read_text(), '../'*(len(page.relative_to(site).parts)-1)
        s = s.replace('"site_libs/katex', f'"{up}site_libs/katex')
        s = with_pictures(with_words(s), site, up)
        page.write_text('\n'.join(l.rstrip() for l in s.split('\n')))

def with_words(page):
    "Pictures without a text of their own get that of the heading they stand under"
    last = 'figure'
    def seen(m):
        nonlocal last
        if m[1] is None: return f'<img alt="{last}" src="data:'
        last = 'Figure: '+html.escape(html.unescape(re.sub('<[^>]+>', '', m[1])).strip())
        return m[0]
    return re.sub(r'<h[1-4][^>]*>(.*?)</h[1-4]>|<img src="data:', seen, page, flags=re.S)

def with_pictures(page, site, up, least=4000):
    "Pictures that lie in the page as text become files: a quarter smaller, read when they are scrolled to, and kept by a browser"
    def filed(m):
        data = b64decode(m[2]); name = f'{hashlib.sha256(data).hexdigest()[:16]}.{m[1].replace("jpeg", "jpg")}'
        (site/'pictures').mkdir(exist_ok=True); (site/'pictures'/name).write_bytes(data)
        return f'loading="lazy" src="{up}pictures/{name}"'
    return re.sub(rf'(?<=\s)src="data:image/(png|jpeg|webp);base64,([^"]{{{least},}})"', filed, page)

# --- README.md

def readme(root=ROOT):
    "The index notebook as Markdown for the repository's front page"
    from execnb.nbio import read_nb
    from nbdev.process import extract_directives
    def local(m):
        url = m[2]
        return m[0] if re.match(r'[a-z]+:|#|/', url) else f'{m[1]}{posixpath.normpath("nbs/"+url)}{m[3]}'
    parts = []
    for c in read_nb(root/'nbs'/'index.ipynb').cells:
        d = extract_directives(c) if c.cell_type == 'code' else {}
        if not c.source.strip() or 'hide' in d: continue
        if c.cell_type == 'markdown': parts.append(re.sub(r'(\]\(|src=")([^)"\s]+)([)"])', local, c.source)); continue
        code = re.sub(r'^#\|.*\n', '', c.source, flags=re.M)
        if d.get('echo:', [''])[0] != 'false': parts.append(f'```python\n{code}\n```')
        if d.get('output:', [''])[0] == 'false': continue
        for o in c.get('outputs', []):
            data = o.get('data', {})
            if 'text/markdown' in data: parts.append(re.sub(r'(\]\()([^)\s]+)(\))', local, ''.join(data['text/markdown']).strip()))
            elif 'text' in o or 'text/plain' in data: parts.append('    '+''.join(o.get('text') or data['text/plain']).rstrip().replace('\n', '\n    '))
    parts.insert(1, '<!-- Made from nbs/index.ipynb by `make docs`: edit that. -->')
    return '\n\n'.join(parts)+'\n'

# --- checks: every internal link leads somewhere, nothing is fetched from elsewhere

class Page(HTMLParser):
    "A page's anchors, links and what it reads like: its words, pictures and links"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.words, self.mute = set(), [], [], [], 0
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if a.get(k) and tag != 'meta'}
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if tag in ('img', 'script', 'source', 'iframe') and a.get('src'): self.loads.append(a['src'])
        if tag == 'link' and a.get('href'): self.loads.append(a['href'])
        if tag in ('script', 'style'): self.mute += 1
    def handle_endtag(self, tag):
        if tag in ('script', 'style'): self.mute -= 1
    def handle_data(self, data):
        if not self.mute: self.words += data.split()
    def reading(self): return ' '.join(self.words), self.links, [s for s in self.loads if not s.endswith(('.js', '.css'))]

def broken(site):
    "What is wrong with the links of the pages in the folder `site`: one line each"
    from urllib.parse import unquote
    pages, bad = {f.resolve(): Page(f.read_text()) for f in Path(site).rglob('*.html')}, []
    for f, page in pages.items():
        name = f.relative_to(Path(site).resolve())
        for url in page.links+page.loads:
            if re.match(r'(data|mailto|javascript):', url): continue
            if re.match(r'[a-z]+:|//', url):
                if url in page.loads: bad.append(f'{name}: loads {url} from elsewhere')
                continue
            path, _, anchor = url.partition('#')
            to = (f.parent/unquote(path.split('?')[0])).resolve() if path else f
            if to.is_dir(): to = to/'index.html'
            if not to.exists(): bad.append(f'{name}: {url} leads nowhere')
            elif anchor and to in pages and unquote(anchor) not in pages[to].ids: bad.append(f'{name}: no {anchor} in {path or name}')
    return bad

def main():
    p = argparse.ArgumentParser(description='docs/ and README.md from the notebooks')
    p.add_argument('--docs', type=Path, default=ROOT/'docs')
    p.add_argument('--readme', type=Path, default=ROOT/'README.md')
    a = p.parse_args()
    a.readme.write_text(readme())
    build(a.docs)
    bad = broken(a.docs)
    print('\n'.join(bad) or f'{len(list(a.docs.rglob("*.html")))} pages in {a.docs}')
    return 1 if bad else 0

if __name__ == '__main__': sys.exit(main())
