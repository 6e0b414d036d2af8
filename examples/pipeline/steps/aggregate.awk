# Counts, for each zone of a region and each year, how long its clock was ahead: one quarter of a day after another.
#
# in:  zone <tab> first <tab> last <tab> ahead      in quarters of a day since 1900-01-01
# out: region <tab> zone <tab> year <tab> quarters ahead <tab> quarters with a clock of record

BEGIN {
    FS = OFS = "\t"
    at = 0
    for (year = 1900; year <= until; year++) {
        days = 365 + ((year % 4 == 0 && year % 100 != 0) || year % 400 == 0)
        for (i = 0; i < 4 * days; i++) year_of[at++] = year
    }
}

function put(    y) {
    for (y = 1900; y <= until; y++) print region, zone, y, ahead[y] + 0, known[y] + 0
}

$1 != zone {
    if (zone != "") put()
    zone = $1
    split("", ahead); split("", known)
}

{
    for (at = $2; at <= $3; at++) {
        y = year_of[at]
        known[y]++
        ahead[y] += $4
    }
}

END { put() }
