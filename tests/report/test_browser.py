"""The page in headless Chromium, where it is installed: console, requests, a phone, paper."""

import re
import shutil
import subprocess

import pytest

from joulewise.report.page import write_study

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PHONE = 360


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_study(study, path)
    return path


def browse(tmp_path, url, *options):
    """Standard output and the console of a page."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--allow-file-access-from-files", "--virtual-time-budget=4000", *options, url],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def test_the_page_draws_its_charts_and_has_nothing_to_say(page, tmp_path):
    dom, console = browse(tmp_path, page.as_uri(), "--dump-dom")
    assert console == []
    assert dom.count("<svg") >= 2
    assert "https://" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)


def test_nothing_is_cut_on_a_phone(page, tmp_path):
    """Wide tables scroll by themselves, with a cue."""
    wrapper = tmp_path / "phone.html"
    wrapper.write_text(
        f"<iframe id=f width={PHONE} height=900 src='{page.as_uri()}'></iframe><script>"
        "setTimeout(() => { const page = f.contentDocument;"
        "const parts = [...page.querySelectorAll('p, h1, h2, .scroll, .chart, svg')];"
        "const ends = parts.map(part => part.getBoundingClientRect().right);"
        "const width = Math.max(page.documentElement.scrollWidth, ...ends);"
        "document.title = 'width ' + Math.ceil(width) }, 2000)</script>"
    )
    dom, _ = browse(tmp_path, wrapper.as_uri(), "--dump-dom")
    (width,) = re.findall(r"<title>width (\d+)</title>", dom)
    assert int(width) <= PHONE


def test_the_page_prints(page, tmp_path):
    path = tmp_path / "page.pdf"
    browse(tmp_path, page.as_uri(), f"--print-to-pdf={path}")
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 10_000
