# Reads the exported table of clock changes, refuses what is malformed, and turns times into day numbers.
#
# in:  zone,at,offset_s,dst,abbreviation      at: UTC, as 1916-04-30T22:00:00Z
# out: zone <tab> day <tab> second <tab> offset_s <tab> dst      day 0 is 1900-01-01

BEGIN { FS = ","; OFS = "\t"; failed = 0 }

function complain(what) {
    printf "%s:%d: %s: %s\n", FILENAME, FNR, what, $0 | "cat >&2"
    failed = 1
}

# Days since 1900-01-01 in the Gregorian calendar. Years begin in March here, so that leap days come last.
function day_number(y, m, d,    shifted, year_of_400, day_of_year) {
    y -= m <= 2
    shifted = m > 2 ? m - 3 : m + 9
    year_of_400 = y % 400
    day_of_year = int((153 * shifted + 2) / 5) + d - 1
    return int(y / 400) * 146097 + year_of_400 * 365 + int(year_of_400 / 4) - int(year_of_400 / 100) + day_of_year - 693901
}

function month_length(y, m) {
    if (m == 2) return (y % 4 == 0 && y % 100 != 0) || y % 400 == 0 ? 29 : 28
    return m == 4 || m == 6 || m == 9 || m == 11 ? 30 : 31
}

FNR == 1 {
    if ($0 != "zone,at,offset_s,dst,abbreviation") complain("unexpected head")
    next
}

NF != 5 { complain("expected 5 fields, found " NF); next }
$1 !~ /^[A-Z][A-Za-z]+\/[A-Za-z_\/-]+$/ { complain("no zone"); next }
$2 !~ /^[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]Z$/ { complain("no time in UTC"); next }
$3 !~ /^-?[0-9]+$/ || $3 < -57600 || $3 > 57600 { complain("no offset in seconds"); next }
$4 !~ /^[01]$/ { complain("dst is 0 or 1"); next }

{
    y = substr($2, 1, 4) + 0; m = substr($2, 6, 2) + 0; d = substr($2, 9, 2) + 0
    h = substr($2, 12, 2) + 0
    if (m < 1 || m > 12 || d < 1 || d > month_length(y, m) || h > 23) { complain("no such time"); next }
    day = day_number(y, m, d)
    second = h * 3600 + substr($2, 15, 2) * 60 + substr($2, 18, 2)
    if ($1 == zone && (day < last_day || (day == last_day && second <= last_second))) complain("out of order")
    if ($1 != zone && $1 in seen) complain("zone stands in two places")
    zone = $1; last_day = day; last_second = second
    seen[zone] = 1
    print zone, day, second, $3, $4
}

END { if (failed) exit 1 }
