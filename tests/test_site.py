"The maker of the pages: numbers, names, links."
import re
from execnb.nbio import dict2nb, mk_cell

def notebook(*cells): return dict2nb({'cells': [mk_cell(s, k) for k, s in cells], 'metadata': {}, 'nbformat': 4, 'nbformat_minor': 5})

def test_figures_are_numbered(site):
    nb = notebook(('code', '#| label: fig-one\n#| fig-cap: First\nplot()'), ('markdown', '![Second](b.png){#fig-two}'),
                  ('markdown', 'See @fig-two and @fig-one, not @fig-none.'), ('markdown', '$$x$$ {#eq-x} by @eq-x'))
    site.number(nb)
    one, two, text, eq = [c.source for c in nb.cells]
    assert 'fig-cap: "Figure 1: First"' in one and 'fig-alt: "First"' in one
    assert two == '![Figure 2: Second](b.png){#fig-two}'
    assert text == 'See [Figure 2](#fig-two) and [Figure 1](#fig-one), not @fig-none.'
    assert r'\tag{1}$$' in eq and '[Equation 1](#eq-x)' in eq

def test_page_names(site):
    assert site.NUMBERED.sub('', '[a](00_images.ipynb#x) report/12_best.ipynb b_00_c.ipynb') == '[a](images.ipynb#x) report/best.ipynb b_00_c.ipynb'

def test_code_that_is_a_link_stays_that_link(tmp_path, site):
    "nbdev would link the name inside, to its own page"
    from pathlib import Path
    for page in (Path(__file__).parent.parent/'docs').rglob('*.html'): assert '</a>](' not in page.read_text(), page

def test_broken_links_are_found(site, tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'a.html').write_text('<h2 id="here">x</h2><a href="#here">1</a><a href="sub/b.html#there">2</a><a href="https://example.org">3</a>')
    (tmp_path/'sub'/'b.html').write_text('<a href="../a.html#here">1</a><a href="c.html">2</a><script src="https://example.org/x.js"></script><img src="no.png">')
    assert sorted(site.broken(tmp_path)) == ['a.html: no there in sub/b.html', 'sub/b.html: c.html leads nowhere',
        'sub/b.html: loads https://example.org/x.js from elsewhere', 'sub/b.html: no.png leads nowhere']

def test_pictures_become_files_once(site, tmp_path):
    "A page at any depth shows the same bytes; what is tiny stays in the page"
    import base64, re
    uri = lambda b, kind='png': f'data:image/{kind};base64,{base64.b64encode(b).decode()}'
    large, small = bytes(range(256))*40, b'tiny'
    page = f'<img alt="a" src="{uri(large)}"><img alt="b" src="{uri(small)}"><img alt="c" src="{uri(large, "jpeg")}"><a href="{uri(large)}">save</a>'
    made = site.with_pictures(page, tmp_path, '../')
    assert made == site.with_pictures(page, tmp_path, '../') and made.count('data:image') == 2 and f'href="{uri(large)}"' in made and uri(small) in made
    names = re.findall(r'loading="lazy" src="\.\./(pictures/\w+\.(?:png|jpg))"', made)
    assert len(names) == 2 and all((tmp_path/n).read_bytes() == large for n in names) and len([*(tmp_path/'pictures').iterdir()]) == 2

def test_comments_of_signatures_hold_no_links(root):
    "nbdev makes a link of each name in backticks; in code that would be seen as brackets and an address"
    for page in (root/'docs').rglob('*.html'): assert not re.search(r'class="co"># [^<]*\[`', page.read_text()), page
