#!/bin/sh
for page in $(grep -ho "[a-z]*\.html" "$1"/*.html); do test -e "$1/$page"; done
