"""The panel in a real browser: `python .ci/browser.py [PICTURE.png]` starts JupyterLab, uploads, clicks, drags, cancels, downloads; the picture is a screenshot.

Not part of `make test`: it needs `pip install playwright`, and a Chromium (named by $CHROMIUM, or playwright's own)."""
import json, os, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path
from PIL import Image
from playwright.sync_api import sync_playwright
from sisr import sample

def notebook(path, code):
    cell = dict(cell_type='code', id='panel', execution_count=None, metadata={}, outputs=[], source=code)
    path.write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=dict(name='python3', display_name='Python 3')), nbformat=4, nbformat_minor=5)))

def serve(folder, port=8898):
    "JupyterLab on that folder, once it answers"
    lab = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=',
                            f'--ServerApp.root_dir={folder}'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(120):
        try: urllib.request.urlopen(f'http://localhost:{port}/api'); return lab, f'http://localhost:{port}/lab/tree'
        except OSError: time.sleep(.5)
    lab.terminate()
    raise SystemExit('JupyterLab does not answer')

def trial(page, url, folder, picture):
    page.goto(f'{url}/panel.ipynb?reset')
    page.locator('.jp-Notebook .jp-InputArea-editor').first.click(timeout=90_000)
    page.wait_for_selector('text=| Idle', timeout=90_000)
    page.keyboard.press('Control+Enter')
    with page.expect_file_chooser(timeout=60_000) as chooser: page.click('button.widget-upload')
    chooser.value.set_files([folder/'photo.png', folder/'none.png'])
    page.wait_for_selector('text=photo.png, none.png')
    page.click('button:has-text("Upscale")')
    page.wait_for_selector('text=none.png: not an image that can be read', timeout=120_000)
    page.click('button:has-text("Pixel for pixel")')
    page.wait_for_selector('text=across')
    page.wait_for_timeout(1000)
    line, box = page.locator('.sisr-wipe input'), page.locator('.sisr-wipe').bounding_box()
    page.mouse.click(box['x']+.25*box['width'], box['y']+60)
    for _ in range(5): page.keyboard.press('ArrowRight')
    assert line.input_value() == '30', 'the line moves by mouse and by keys'
    with page.expect_download() as file: page.click('a[download]')
    assert Image.open(file.value.path()).size == (960, 652)
    if picture: page.screenshot(path=picture)
    page.get_by_placeholder('a file or a folder').fill(str(folder/'large.png'))
    page.keyboard.press('Tab')
    page.click('button:has-text("Upscale")')
    page.wait_for_selector('text=/large.png: tile 2/', timeout=180_000)
    page.click('button:has-text("Cancel")')
    page.wait_for_selector('text=cancelled', timeout=120_000)
    assert not list(folder.rglob('*-x4.png')), 'nothing half done'

with tempfile.TemporaryDirectory() as tmp, sync_playwright() as play:
    folder = Path(tmp)
    Image.open(sample()).resize((240, 163)).save(folder/'photo.png')
    Image.open(sample()).resize((1600, 1083)).save(folder/'large.png')
    (folder/'none.png').write_text('no picture')
    notebook(folder/'panel.ipynb', 'from sisr import Panel\nPanel()')
    lab, url = serve(folder)
    try:
        chromium = play.chromium.launch(executable_path=os.environ.get('CHROMIUM'), args=['--no-sandbox'])
        trial(chromium.new_page(viewport=dict(width=1180, height=1100)), url, folder, sys.argv[1] if sys.argv[1:] else None)
    finally: lab.terminate(); lab.wait()
print('the panel works in JupyterLab')
