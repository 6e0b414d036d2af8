#!/bin/sh
case $1 in
http://*) exec python3 -c "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())" "$1" ;;
*) echo "tested $*" ;;
esac
