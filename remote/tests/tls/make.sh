#!/usr/bin/env bash
# Makes the certificates of the tests anew. Nobody but the tests believes them.
set -euo pipefail
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }
# sign NAME CA FROM TO EXTENSIONS: times as YYMMDD..Z
sign() {
    openssl req -new -key "$tmp/key.pem" -subj "/CN=$1" -out "$tmp/csr.pem"
    printf '%s\n' "$5" > "$tmp/ext"
    : > "$tmp/index"; echo 01 > "$tmp/serial"
    printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nserial=%s/serial\nnew_certs_dir=%s\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' "$tmp" "$tmp" "$tmp" > "$tmp/conf"
    openssl ca -batch -notext -config "$tmp/conf" -cert "$2.pem" -keyfile "$tmp/$2.key" -in "$tmp/csr.pem" \
        -startdate "$3" -enddate "$4" -extfile "$tmp/ext" -out "$1.pem" 2>/dev/null
}
for ca in ca stranger; do
    key "$tmp/$ca.key"
    openssl req -x509 -new -key "$tmp/$ca.key" -subj "/CN=quipu tests $ca" -days 36500 \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -out "$ca.pem"
done
rm -f stranger.key
key "$tmp/key.pem"
cp "$tmp/key.pem" key.pem
names='subjectAltName=DNS:localhost,IP:127.0.0.1'
sign server ca 20200101000000Z 21200101000000Z "$names"
sign expired ca 20200101000000Z 20210101000000Z "$names"
sign future ca 21100101000000Z 21200101000000Z "$names"
sign elsewhere ca 20200101000000Z 21200101000000Z 'subjectAltName=DNS:elsewhere.example'
sign client ca 20200101000000Z 21200101000000Z 'extendedKeyUsage=clientAuth'
