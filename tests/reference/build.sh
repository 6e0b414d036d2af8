#!/bin/sh
mkdir -p assets maps
cat src/*.c > app
echo logo > assets/logo
echo here > maps/a.map
