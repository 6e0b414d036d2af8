#!/bin/sh
mkdir -p "$1"
echo "<a href=about.html>about</a>" > "$1/index.html"
echo "<p>about" > "$1/about.html"
