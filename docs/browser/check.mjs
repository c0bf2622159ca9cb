// Every page of site/ in headless Chromium, at a desktop's and a phone's width: it loads, the console has no
// error, nothing is wider than the window, and the search finds reverse_mode. Pictures go to docs/browser/screens/.
import { createServer } from "node:http";
import { mkdirSync, readFileSync, readdirSync, statSync, existsSync } from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const site = join(here, "..", "..", "site");
const types = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png" };

const server = createServer((request, response) => {
  const path = join(site, decodeURIComponent(new URL(request.url, "http://x").pathname));
  const file = existsSync(path) && statSync(path).isDirectory() ? join(path, "index.html") : path;
  if (!existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": types[extname(file)] ?? "application/octet-stream" });
  response.end(readFileSync(file));
}).listen(0);
const root = `http://localhost:${server.address().port}`;

const pages = readdirSync(site, { recursive: true }).filter((name) => name.endsWith(".html") && name !== "404.html");
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const problems = [];
for (const [size, width, height] of [["desktop", 1280, 900], ["phone", 390, 844]]) {
  const page = await browser.newPage({ viewport: { width, height } });
  let at = "";
  page.on("console", (message) => message.type() === "error" && problems.push(`${at} (${size}): ${message.text()}`));
  page.on("pageerror", (error) => problems.push(`${at} (${size}): ${error.message}`));
  page.on("response", (answer) => answer.status() >= 400 && problems.push(`${at} (${size}): ${answer.status()} ${answer.url()}`));
  for (at of pages) {
    await page.goto(`${root}/${at}`, { waitUntil: "load" });
    const title = await page.locator("h1").first().textContent();
    if (!title?.trim()) problems.push(`${at} (${size}): no heading`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
    if (wide > 1) problems.push(`${at} (${size}): ${wide} pixels wider than the window`);
    mkdirSync(join(here, "screens", size), { recursive: true });
    await page.screenshot({ path: join(here, "screens", size, at.replaceAll("/", "-").replace(".html", ".png")) });
  }
  at = "search";
  await page.goto(`${root}/index.html`, { waitUntil: "networkidle" });
  if (size === "phone") await page.locator("label[for=__search]").first().click();
  await page.locator("input.md-search__input").pressSequentially("reverse_mode", { delay: 50 });
  await page.waitForSelector(".md-search-result__link", { timeout: 60000 });
  const found = await page.locator(".md-search-result__link").evaluateAll((links) => links.map((link) => link.href));
  if (!found.some((link) => link.includes("api/offline"))) problems.push(`search (${size}): reverse_mode leads to ${found}`);
  await page.screenshot({ path: join(here, "screens", size, "search.png") });
  await page.close();
}
await browser.close();
server.close();
console.log(`${pages.length} pages, two widths: ${problems.length} problems`);
problems.forEach((problem) => console.error(problem));
process.exit(problems.length ? 1 : 0);
